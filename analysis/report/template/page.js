// Sorting of tables (DataTables, bundled by itables), and the samples browser. Texts of runs go in
// as text, never as markup.
import DataTable from "datatables";

const LONG = 12; // rows, from which on a table can be searched

for (const table of document.querySelectorAll("table.sortable")) {
  const rows = table.tBodies[0].rows.length;
  if (rows < 2) continue;
  const search = rows > LONG ? { search: { text: "_INPUT_", placeholder: "filter rows" } } : null;
  new DataTable(table, {
    paging: false, info: false, order: [], autoWidth: false, searching: rows > LONG,
    layout: { topStart: search, topEnd: null, bottomStart: null, bottomEnd: null },
  });
}

const runs = JSON.parse(document.getElementById("samples-data").textContent);
const form = document.getElementById("browse");
const { run: chosenRun, split: chosenSplit, search, count } = form.elements;
const browser = document.getElementById("browser");
const ROLES = { synthetic: "y'", annotated: "y", proto: "y0" };

function element(name, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(name), attributes);
  node.append(...children.filter((child) => child != null));
  return node;
}

// Log-likelihood and reward of each role after one iteration.
function numbers(scores) {
  const scored = Object.entries(ROLES).filter(([role]) => role in scores);
  if (!scored.length) return null;
  const cell = (value) =>
    element("td", { className: "number" }, value == null ? "-" : value.toFixed(2));
  return element("table", {},
    element("thead", {}, element("tr", {},
      ...["", "log-lik.", "reward"].map((title, i) =>
        element("th", { className: i ? "number" : "" }, title)))),
    element("tbody", {}, ...scored.map(([role, title]) =>
      element("tr", {}, element("td", {}, title), ...scores[role].map(cell)))));
}

function card(title, text, colour, scores = {}) {
  const node = element("div", { className: "response" },
    element("h5", {}, title),
    text == null ? null : element("div", { className: "text" }, text === "" ? "(empty)" : text),
    numbers(scores));
  if (colour) node.style.borderTopColor = colour;
  return node;
}

function shown(prompt, run) {
  const cards = [card("annotated y", prompt.annotated, "#009E73")];
  if (prompt.proto != null) cards.push(card("proto-synthetic y0", prompt.proto, "#999999"));
  for (const { t, response, scores } of prompt.iterations) {
    const title = response == null ? `after iteration ${t}` : `synthetic y' of iteration ${t}`;
    cards.push(card(title, response, run.colour, scores));
  }
  return element("article", { className: "sample" },
    element("p", {}, element("b", {}, prompt.prompt), " ",
      element("span", { className: "quiet" }, `${prompt.split}, ${prompt.id}`)),
    element("div", { className: "responses" }, ...cards));
}

function words(prompt) {
  const responses = prompt.iterations.map(({ response }) => response ?? "");
  return [prompt.id, prompt.prompt, prompt.annotated, prompt.proto ?? "", ...responses]
    .join("\n").toLowerCase();
}

function browse() {
  const run = runs[Number(chosenRun.value)];
  if (!run) {
    count.value = "no samples";
    return;
  }
  const wanted = search.value.toLowerCase();
  const prompts = run.prompts.filter((prompt) =>
    (!chosenSplit.value || prompt.split === chosenSplit.value) && words(prompt).includes(wanted));
  count.value = `${prompts.length} of ${run.prompts.length} prompts`;
  browser.replaceChildren(...prompts.map((prompt) => shown(prompt, run)));
}

runs.forEach((run, i) =>
  chosenRun.append(new Option(`${run.label}, seed ${run.seed} (${run.setting})`, i)));
for (const split of new Set(runs.flatMap((run) => run.prompts.map((prompt) => prompt.split)))) {
  chosenSplit.append(new Option(split, split));
}
const sampled = runs.findIndex((run) => run.prompts.some((prompt) => prompt.proto != null));
chosenRun.value = Math.max(sampled, 0); // SFT samples nothing
// a choice that a program makes, as drivers and some assistive tools do, is a change only
for (const kind of ["input", "change"]) form.addEventListener(kind, browse);
form.addEventListener("submit", (event) => event.preventDefault());
browse();
