// CSV and JSONL, read with the line of every row and of every mistake.

/** A mistake in a file; the message names its line. */
export class TableProblem extends Error {}

/** The text of a file's bytes, which must be UTF-8. */
export function decode(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const before = new TextDecoder("utf-8").decode(bytes).split("\ufffd")[0];
    throw new TableProblem(`Line ${before.split("\n").length} is not UTF-8 text. Save the file as UTF-8.`);
  }
}

/**
 * Rows of a CSV or JSONL text: `{ kind, columns, delimiter, mark, rows: [{ line, values }] }`, where `values` is an object.
 * `mark` is a byte order mark, if the text has one.
 */
export function readTable(text, name = "") {
  const mark = text.startsWith("\ufeff") ? "\ufeff" : "";
  const content = text.slice(mark.length);
  if (!content.trim()) throw new TableProblem("There is no text in it.");
  if (content.includes("\0")) throw new TableProblem("It is not a text file.");
  const isJson = /\.(jsonl|ndjson|json)$/i.test(name) || (!/\.(csv|tsv)$/i.test(name) && /^\s*[{[]/.test(content));
  return { mark, ...(isJson ? readJsonLines(content) : readCsv(content)) };
}

/** The inputs that a task's fields make of each row: an array of the texts in order. */
export function inputsOf(table, fields) {
  const keys = fields.map((field) => keyOf(table, field));
  return table.rows.map(({ line, values }) =>
    keys.map((key, index) => {
      const value = values[key ?? fields[index]];
      if (typeof value !== "string") throw new TableProblem(`Line ${line} lacks the text “${fields[index]}”.`);
      if (value.isWellFormed?.() === false) throw new TableProblem(`Line ${line} holds half a character.`);
      return value;
    }),
  );
}

function keyOf(table, field) {
  const alike = (column) => column.trim().toLowerCase() === field.toLowerCase();
  const key = table.columns.includes(field) ? field : table.columns.find(alike);
  if (key === undefined && table.kind === "csv") {
    const found = table.columns.map((column) => `“${column}”`).join(", ");
    throw new TableProblem(`Line 1 must name the columns, and “${field}” is none of them: ${found}.`);
  }
  return key;
}

/**
 * The table with what was answered, in the format it came in, as `{ content, renamed }`.
 *
 * Columns of the table's own stay as they are: an answer whose name one of them has gets another, as `stillshot predict`
 * chooses it; `renamed` are pairs of the usual name and that one.
 */
export function writeTable(table, answers) {
  const flat = table.kind === "jsonl" ? answers : answers.map(inColumns);
  const added = Object.keys(flat[0] ?? {});
  const names = namesBeside(table.columns, added);
  const renamed = added.filter((name) => names[name] !== name).map((name) => [name, names[name]]);
  if (table.kind === "jsonl") {
    const lines = table.rows.map((row, index) => {
      const named = Object.fromEntries(added.map((name) => [names[name], flat[index][name]]));
      return `${row.content.slice(0, -1).trimEnd()}${Object.keys(row.values).length ? ", " : ""}${JSON.stringify(named).slice(1)}\n`;
    });
    return { content: lines.join(""), renamed };
  }
  const written = (cells) => `${cells.map((cell) => quoted(cell, table.delimiter)).join(table.delimiter)}\n`;
  const rows = table.rows.map(({ values }, index) =>
    written([...table.columns.map((column) => values[column]), ...added.map((name) => flat[index][name])]),
  );
  const head = written([...table.columns, ...added.map((name) => names[name])]);
  return { content: table.mark + head + rows.join(""), renamed };
}

function inColumns({ prediction, probabilities }) {
  const scores = Object.entries(probabilities).map(([label, value]) => [`probability_${label}`, String(value)]);
  return { prediction, ...Object.fromEntries(scores) };
}

function namesBeside(own, added) {
  const taken = new Set(own);
  const names = {};
  for (const name of added) {
    names[name] = name;
    for (let number = 2; taken.has(names[name]); number += 1) names[name] = `${name}_${number}`;
    taken.add(names[name]);
  }
  return names;
}

function quoted(cell, delimiter) {
  const plain = !cell.includes(delimiter) && !/["\r\n]|^\s|\s$/.test(cell);
  return plain ? cell : `"${cell.replaceAll('"', '""')}"`;
}

// JSONL -------------------------------------------------------------------------------------------

function readJsonLines(text) {
  const rows = [];
  const columns = new Set();
  text.split("\n").forEach((content, index) => {
    if (!content.trim()) return;
    const line = index + 1;
    let values;
    try {
      values = JSON.parse(content);
    } catch {
      throw new TableProblem(`Line ${line} is not valid JSON. Each line must be one whole object.`);
    }
    if (values === null || typeof values !== "object" || Array.isArray(values)) {
      throw new TableProblem(`Line ${line} is not an object. Each line must be one, e.g. {"text": "..."}.`);
    }
    Object.keys(values).forEach((key) => columns.add(key));
    rows.push({ line, values, content: content.trim() });
  });
  return { kind: "jsonl", columns: [...columns], rows };
}

// CSV (RFC 4180; commas, semicolons or tabs) ------------------------------------------------------

function readCsv(text) {
  const delimiter = likelyDelimiter(text);
  const [header, ...records] = csvRecords(text, delimiter);
  const columns = header.cells;
  const twice = columns.find((column, index) => columns.indexOf(column) !== index);
  if (twice !== undefined) throw new TableProblem(`Line 1 names the column “${twice}” twice.`);
  const rows = records.map(({ line, cells }) => {
    if (cells.length !== columns.length) {
      const names = `${columns.length} column${columns.length === 1 ? "" : "s"}`;
      const count = `${cells.length} cell${cells.length === 1 ? "" : "s"}`;
      throw new TableProblem(`Line ${line} has ${count}, but line 1 names ${names}.`);
    }
    return { line, values: Object.fromEntries(columns.map((column, index) => [column, cells[index]])) };
  });
  if (!rows.length) throw new TableProblem("There are no rows below line 1, which names the columns.");
  return { kind: "csv", columns, delimiter, rows };
}

function likelyDelimiter(text) {
  const first = text.split(/\r?\n/).find((line) => line.trim()).replace(/"[^"]*"/g, "");
  const counts = [",", ";", "\t"].map((candidate) => [candidate, first.split(candidate).length]);
  return counts.reduce((best, next) => (next[1] > best[1] ? next : best))[0];
}

function csvRecords(text, delimiter) {
  const records = [];
  let [line, at] = [1, 0];
  while (at < text.length) {
    const started = line;
    const cells = [];
    for (;;) {
      const cell = text[at] === '"' ? quotedCell(text, at, line, delimiter) : plainCell(text, at, delimiter);
      cells.push(cell.value);
      line += cell.breaks;
      at = cell.end;
      if (text[at] !== delimiter) break;
      at += 1;
    }
    if (text[at] === "\r") at += 1;
    if (text[at] === "\n") at += 1;
    line += 1;
    if (cells.length > 1 || cells[0].trim()) records.push({ line: started, cells });
  }
  return records;
}

function plainCell(text, start, delimiter) {
  let end = start;
  while (end < text.length && text[end] !== delimiter && text[end] !== "\n" && text[end] !== "\r") end += 1;
  return { value: text.slice(start, end), end, breaks: 0 };
}

function quotedCell(text, start, line, delimiter) {
  let end = start + 1;
  for (;;) {
    end = text.indexOf('"', end);
    if (end < 0) throw new TableProblem(`Line ${line}: a quote is opened and never closed.`);
    if (text[end + 1] !== '"') break;
    end += 2;
  }
  const inside = text.slice(start + 1, end);
  const breaks = inside.split("\n").length - 1;
  end += 1;
  if (end < text.length && text[end] !== delimiter && text[end] !== "\n" && text[end] !== "\r") {
    throw new TableProblem(`Line ${line + breaks}: there is text behind a closing quote. Double a quote inside a cell.`);
  }
  return { value: inside.replaceAll('""', '"'), end, breaks };
}
