// Label a whole file: read here, answered by the server in parts, written here.

import { ask, RequestProblem } from "./server.js";
import { decode, inputsOf, readTable, TableProblem, writeTable } from "./tables.js";

const PART_ROWS = 32;
const PART_CHARACTERS = 200_000;
const MOST_BYTES = 100_000_000;
const MOST_RETRIES = 60;
const SPLIT = [400, 413, 422]; // of these, one row of a part is the cause

/** The file chosen, or the text pasted, as `{ text, name }`. */
export async function source(file, pasted) {
  if (!file) {
    if (!pasted.trim()) throw new TableProblem("Choose a file, or paste its text.");
    return { text: pasted, name: "" };
  }
  if (file.size > MOST_BYTES) throw new TableProblem("It is larger than 100 MB. Use `stillshot predict` for it.");
  return { text: decode(new Uint8Array(await file.arrayBuffer())), name: file.name };
}

/**
 * The labelled table as `{ content, name, type, rows }`.
 *
 * `report(done, total)` is told of progress; `signal` ends the work.
 */
export async function labelTable({ text, name }, student, report, signal) {
  const table = readTable(text, name);
  const inputs = inputsOf(table, student.fields);
  const answers = [];
  const told = { cut: 0 };
  report(0, inputs.length);
  for (const [start, end] of parts(inputs)) {
    const rows = await answered(inputs.slice(start, end), table.rows.slice(start, end), student, signal, told);
    answers.push(...rows.map(shown));
    report(answers.length, inputs.length);
  }
  const stem = name.replace(/\.[^.]*$/, "");
  const suffix = table.kind === "jsonl" ? "jsonl" : /\.tsv$/i.test(name) ? "tsv" : "csv";
  const { content, renamed } = writeTable(table, answers);
  return {
    content,
    renamed,
    cut: told.cut,
    name: `${stem ? `${stem}-` : ""}labelled.${suffix}`,
    type: table.kind === "jsonl" ? "application/jsonl" : "text/csv",
    rows: answers.length,
  };
}

function* parts(inputs) {
  let [start, characters] = [0, 0];
  for (let at = 0; at < inputs.length; at += 1) {
    const size = inputs[at].reduce((sum, text) => sum + text.length, 0);
    if (at > start && (at - start >= PART_ROWS || characters + size > PART_CHARACTERS)) {
      yield [start, at];
      [start, characters] = [at, 0];
    }
    characters += size;
  }
  if (inputs.length) yield [start, inputs.length];
}

async function answered(inputs, rows, student, signal, told) {
  try {
    return await patiently({ model: student.id, inputs }, signal, told);
  } catch (error) {
    if (!(error instanceof RequestProblem) || !SPLIT.includes(error.status)) throw error;
    if (inputs.length === 1) throw new TableProblem(`Line ${rows[0].line}: ${error.message}`);
    const middle = inputs.length >> 1;
    const first = await answered(inputs.slice(0, middle), rows.slice(0, middle), student, signal, told);
    return [...first, ...(await answered(inputs.slice(middle), rows.slice(middle), student, signal, told))];
  }
}

async function patiently(body, signal, told) {
  for (let tries = 0; ; tries += 1) {
    try {
      const { content, headers } = await ask("predict", body, signal);
      told.cut += (headers.get("x-truncated") ?? "").split(",").filter(Boolean).length;
      return content;
    } catch (error) {
      if (error.status !== 429 || tries >= MOST_RETRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.retrySeconds));
      signal.throwIfAborted();
    }
  }
}

function shown(predictions) {
  const rounded = predictions.map(({ label, score }) => [label, Math.round(score * 1e6) / 1e6]);
  return { prediction: predictions[0].label, probabilities: Object.fromEntries(rounded) };
}
