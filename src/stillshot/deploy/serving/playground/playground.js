// The page: which students there are, one question, and a file to label.

import { labelTable, source } from "./labelling.js";
import { ask, forgetToken, isToken, rememberToken, RequestProblem } from "./server.js";
import { TableProblem } from "./tables.js";

const at = (id) => document.getElementById(id);
let students = [];
let asking = null; // ends the question under way
let labelling = null;
let downloadAddress = null;

function element(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

function tell(id, message) {
  at(id).textContent = message;
  at(id).hidden = !message;
}

const chosen = () => students.find((student) => student.id === at("student").value);
const thousands = (number) => number.toLocaleString("en-US");

// Students ----------------------------------------------------------------------------------------

async function begin() {
  tell("problem", "");
  try {
    students = (await ask("v1/models")).content.data;
  } catch (error) {
    const locked = error.status === 401;
    const wrong = sessionStorage.length ? "That is not this server’s token." : "";
    tell("problem", locked ? wrong : error.message);
    if (locked || !at("entry").hidden) {
      forgetToken(); // it has opened nothing
      at("entry").hidden = false;
      at("token").focus();
    }
    return;
  }
  at("entry").hidden = true;
  at("content").hidden = false;
  at("student").replaceChildren(...students.map(({ id }) => element("option", { value: id, textContent: id })));
  at("chooser").hidden = students.length < 2;
  showStudent();
}

function showStudent() {
  const student = chosen();
  at("title").textContent = student.task;
  at("lead").textContent = student.description || `Answers with ${student.labels.join(", ")}.`;
  document.title = `${student.task} · Stillshot playground`;
  at("report-line").hidden = !student.report;
  at("report").href = `report/${encodeURIComponent(student.id)}`;
  const kept = Object.fromEntries([...at("fields").querySelectorAll("textarea")].map(({ name, value }) => [name, value]));
  at("fields").replaceChildren(
    ...student.fields.flatMap((field, index) => [
      element("label", { htmlFor: `field-${index}`, textContent: field, dir: "auto" }),
      element("textarea", { id: `field-${index}`, name: field, rows: 3, required: true, dir: "auto", value: kept[field] ?? "" }),
    ]),
  );
  const names = student.fields.map((field) => `“${field}”`).join(" and ");
  at("label-hint").textContent =
    `A CSV with a column ${names}, or JSONL with such keys. It comes back with the label and all probabilities; rows go ` +
    "to this server alone.";
  const example = student.fields.length === 1 ? '"..."' : `[${student.fields.map((field) => JSON.stringify(`${field} ...`)).join(", ")}]`;
  const model = students.length > 1 ? `"model": ${JSON.stringify(student.id)}, ` : "";
  at("program").textContent =
    `curl ${location.origin}/predict \\\n  -H 'content-type: application/json' \\\n` +
    (sessionStorage.length ? "  -H \"authorization: Bearer $STILLSHOT_TOKEN\" \\\n" : "") +
    `  -d '${`{${model}"inputs": ${example}}`.replaceAll("'", "'\\''")}'`;
  asking?.abort();
  at("answers").replaceChildren();
  tell("ask-problem", "");
}

// One question ------------------------------------------------------------------------------------

async function answer() {
  const student = chosen();
  const texts = [...at("fields").querySelectorAll("textarea")].map(({ value }) => value);
  const body = { model: student.id, inputs: [texts] };
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  tell("ask-problem", "");
  const panels = [panel("Student", student.id, "student")];
  const waits = [fill(panels[0], "predict", body, student, signal)];
  if (student.teacher) {
    panels.push(panel("Teacher, with its context", student.teacher, "teacher"));
    waits.push(fill(panels[1], "teacher", body, student, signal));
  }
  at("answers").replaceChildren(...panels);
  await Promise.all(waits);
}

function panel(title, name, kind) {
  return element(
    "article",
    { className: `answer ${kind}` },
    element("h3", { textContent: title }),
    element("p", { className: "note", textContent: name, dir: "auto" }),
    element("p", { className: "note state", textContent: kind === "teacher" ? "Reading its context …" : "Reading …" }),
  );
}

async function fill(panel, path, body, student, signal) {
  const state = panel.querySelector(".state");
  try {
    const { content, headers } = await ask(path, body, signal);
    const tokens = Number(headers.get("x-compute-tokens"));
    const cut = headers.get("x-truncated") ? ", to which the text was cut" : "";
    state.replaceWith(
      bars(content[0], student.labels),
      element("p", {
        className: "note",
        textContent: `${thousands(tokens)} tokens${cut} · ${duration(Number(headers.get("x-inference-time")))}`,
      }),
    );
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof RequestProblem)) throw error;
    state.textContent = `No answer: ${error.message}`;
  }
}

function bars(predictions, labels) {
  const scores = Object.fromEntries(predictions.map(({ label, score }) => [label, score]));
  const rows = labels.map((label) => {
    const filled = element("div", { className: "fill" });
    filled.style.width = `${100 * scores[label]}%`;
    return element(
      "li",
      { className: label === predictions[0].label ? "top" : "" },
      element("bdi", { textContent: label }),
      element("span", { className: "value", textContent: `${(100 * scores[label]).toFixed(1)}%` }),
      element("div", { className: "track" }, filled),
    );
  });
  return element("ul", { className: "bars" }, ...rows);
}

function duration(milliseconds) {
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

// A file ------------------------------------------------------------------------------------------

async function label() {
  labelling = new AbortController();
  const { signal } = labelling;
  tell("label-problem", "");
  at("label-status").textContent = "Reading …";
  at("download-line").hidden = true;
  at("start").disabled = true;
  at("stop").hidden = false;
  try {
    const labelled = await labelTable(await source(at("file").files[0], at("pasted").value), chosen(), progress, signal);
    offer(labelled);
    const renamed = labelled.renamed.map(([own, name]) => ` Your column “${own}” stays; the answers are in “${name}”.`);
    const cut = labelled.cut ? ` ${thousands(labelled.cut)} had texts that were cut to what the student reads.` : "";
    at("label-status").textContent = `Done: ${thousands(labelled.rows)} rows are labelled.${cut}${renamed.join("")}`;
  } catch (error) {
    at("label-status").textContent = signal.aborted ? "Stopped." : "";
    if (!signal.aborted) {
      if (!(error instanceof TableProblem || error instanceof RequestProblem)) throw error;
      tell("label-problem", error.message);
    }
  } finally {
    at("start").disabled = false;
    at("stop").hidden = true;
    at("work").hidden = true;
  }
}

function progress(done, total) {
  at("work").hidden = false;
  if (!done) at("label-status").textContent = `Labelling ${thousands(total)} rows …`;
  Object.assign(at("bar"), { max: total, value: done });
  at("count").textContent = `${thousands(done)} of ${thousands(total)}`;
}

function offer({ content, name, type }) {
  if (downloadAddress) URL.revokeObjectURL(downloadAddress);
  downloadAddress = URL.createObjectURL(new Blob([content], { type }));
  Object.assign(at("download"), { href: downloadAddress, download: name, textContent: `Download ${name}` });
  at("download-line").hidden = false;
}

// What the page listens to ------------------------------------------------------------------------

function onSubmit(id, work) {
  at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    work();
  });
}

onSubmit("entry", () => {
  const token = at("token").value.trim();
  if (!isToken(token)) {
    tell("problem", "A token is ASCII without spaces. This one has another character, perhaps an unseen one: type it anew.");
    at("token").select();
    return;
  }
  rememberToken(token);
  begin();
});
onSubmit("ask", answer);
onSubmit("label", label);
at("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
at("student").addEventListener("change", showStudent);
at("stop").addEventListener("click", () => labelling?.abort());
begin();
