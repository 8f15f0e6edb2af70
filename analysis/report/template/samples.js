// The samples of a run: sorted, searched, a few at a time. Texts go in as text, never as markup.
// Rows are inside the page, in a script beside it, or asked of who serves it.

const SHOWN = 5; // prompts at a time
const data = JSON.parse(document.getElementById("samples-data").textContent);
const form = document.getElementById("browse");
const { order, split, search, place, before, next } = form.elements;
const browser = document.getElementById("browser");
const count = document.getElementById("count");
const ROLES = { annotated: "y", synthetic: "y'", proto: "y0" };
const SORTED = {
  data: null, gain: (a, b) => b.gain - a.gain, loss: (a, b) => a.gain - b.gain,
  longest: (a, b) => b.longest - a.longest, misaligned: (a, b) => b.misaligned - a.misaligned,
};
const KEYS = { gain: "gain", loss: "gain", longest: "longest" };

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
    element("thead", {}, element("tr", {}, ...["", "log-lik.", "reward"].map((title, i) =>
      element("th", { className: i ? "number" : "" }, title)))),
    element("tbody", {}, ...scored.map(([role, title]) =>
      element("tr", {}, element("td", {}, title), ...scores[role].map(cell)))));
}

// A response is a text, or its tokens with how little the policy expected each of them.
const plain = (response) => response?.tokens?.join("") ?? response ?? "";

const SHADES = [50, 10, 1, 0.1]; // %: a token is a shade darker below each of these probabilities
const percent = (surprise) => 100 * Math.exp(-surprise / 100);

function tokens({ tokens: texts, surprise }) {
  const parts = texts.map((text, i) => element("span",
    { className: `p${SHADES.filter((limit) => percent(surprise[i]) < limit).length}` }, text));
  const box = element("div", { className: "text tokens", tabIndex: 0 }, ...parts);
  box.setAttribute("aria-label", "tokens: arrow keys go from one to the next");
  const reading = element("output", { className: "quiet" });
  let here = -1;
  const read = (i) => {
    parts[here]?.classList.remove("here");
    here = Math.min(Math.max(i, 0), parts.length - 1);
    parts[here].classList.add("here");
    const p = percent(surprise[here]);
    reading.value = `${JSON.stringify(texts[here])}: ${(-surprise[here] / 100).toFixed(2)} nats, ` +
      `p ${p < 0.1 ? p.toExponential(0) : Number(p.toPrecision(2))}%`;
  };
  box.addEventListener("pointerover", ({ target }) => {
    if (parts.includes(target)) read(parts.indexOf(target));
  });
  const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  box.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    read(here + moves[event.key]);
    parts[here].scrollIntoView({ block: "nearest" });
  });
  return [box, reading];
}

function body(response) {
  if (response == null) return [];
  if (response.tokens?.length) return tokens(response);
  return [element("div", { className: "text" }, plain(response) || "(empty)")];
}

function card(title, response, colour, scores = {}) {
  const node = element("div", { className: "response" }, element("h4", {}, title),
    ...body(response), numbers(scores));
  node.style.borderTopColor = colour;
  return node;
}

function shown(row) {
  const cards = [card("y, annotated", row.annotated, "#009E73")];
  if (row.proto != null) cards.push(card("y0, initial policy", row.proto, "#999999"));
  for (const { t, response, num_tokens: length, cut, scores } of row.iterations) {
    const size = length == null ? "" :
      `, ${length} token${length === 1 ? "" : "s"}${cut ? ", cut" : ""}`;
    const title = response == null ? `after iteration ${t}` : `y' of iteration ${t}${size}`;
    cards.push(card(title, response, "#CC79A7", scores));
  }
  const facts = [`${row.n} of ${data.total}`, row.split, row.id];
  if (row.gain != null) facts.push(`log pi(y) ${row.gain < 0 ? "" : "+"}${row.gain.toFixed(2)} nats`);
  if (row.misaligned) facts.push("misaligned");
  return element("article", { className: "sample" },
    row.context == null ? null : element("p", { className: "quiet" }, row.context),
    element("p", {}, element("b", {}, row.prompt ?? ""), " ",
      element("span", { className: "quiet" }, facts.join(", "))),
    element("div", { className: "responses" }, ...cards));
}

// --- where rows come from: (order, split, search, place) -> {total, rows} ---

let rows = data.rows ?? null;

function words(row) {
  const responses = [row.annotated, row.proto, ...row.iterations.map(({ response }) => response)];
  return [row.id, row.context ?? "", row.prompt ?? "", ...responses.map(plain)]
    .join("\n").toLowerCase();
}

async function inside(query) {
  if (rows === null) rows = await beside();
  const wanted = query.search.toLowerCase();
  let kept = rows.filter((row) =>
    (!query.split || row.split === query.split) && (!wanted || words(row).includes(wanted)));
  const key = KEYS[query.order];
  if (key) kept = [...kept.filter((r) => r[key] != null), ...kept.filter((r) => r[key] == null)];
  const known = key ? kept.filter((r) => r[key] != null) : kept;
  if (SORTED[query.order]) {
    known.sort(SORTED[query.order]);
    kept = key ? [...known, ...kept.slice(known.length)] : known;
  }
  return { total: kept.length, rows: kept.slice(query.place - 1, query.place - 1 + SHOWN) };
}

function beside() {
  return new Promise((done, failed) => {
    const script = element("script", { src: data.script, onerror: failed });
    script.onload = () => done(window.tspinRows);
    document.head.append(script);
  });
}

async function served(query) {
  const answer = await fetch(`${data.url}?${new URLSearchParams({ ...query, most: SHOWN })}`);
  return answer.json();
}

// --- what is asked for ---

let asked = 0;
async function browse() {
  const query = { order: order.value, split: split.value, search: search.value,
    place: Math.max(1, Number(place.value) || 1) };
  const own = ++asked;
  count.value = "...";
  let answer;
  try {
    answer = await (data.url ? served(query) : inside(query));
  } catch {
    count.value = "The samples could not be read.";
    return;
  }
  if (own !== asked) return; // another question came meanwhile
  const last = Math.min(query.place + SHOWN - 1, answer.total);
  const part = data.url || (rows ?? []).length === data.total ? "" :
    ` (the page has ${rows.length} of ${data.total} prompts; python -m analysis watch has all)`;
  count.value = answer.total ? `${query.place} to ${last} of ${answer.total} prompts${part}`
    : `no prompt${part}`;
  before.disabled = query.place <= 1;
  next.disabled = last >= answer.total;
  browser.replaceChildren(...answer.rows.map(shown));
  document.getElementById("shades").hidden = !browser.querySelector(".tokens");
}

function go(to) {
  place.value = Math.max(1, to);
  browse();
}

for (const [value, title] of Object.entries(data.orders)) order.append(new Option(title, value));
// a choice that a program makes, as drivers and some assistive tools do, is a change only
for (const control of [order, split, search])
  for (const kind of ["input", "change"]) control.addEventListener(kind, () => go(1));
place.addEventListener("change", browse);
before.addEventListener("click", () => go(Number(place.value) - SHOWN));
next.addEventListener("click", () => go(Number(place.value) + SHOWN));
form.addEventListener("submit", (event) => { event.preventDefault(); browse(); });
if (data.total) browse();
else count.value = "No prompts yet.";
if (data.url) document.addEventListener("renewed", browse);
