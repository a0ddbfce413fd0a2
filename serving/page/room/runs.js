// Zero-shot and few-shot runs that lie in the folder which the service was given: a table and figures of each.

import { find, make } from "./dom.js";

const ENDS = ["_std", "_low", "_high"];
const WORDS = new Set(["against", "note"]); // columns that are text whatever they hold

const isNumber = (text) => /^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) || text === "nan";
const short = (text) => {
  if (text === "nan" || text === "") return "–";
  const value = Number(text), size = Math.abs(value);
  if (/^-?\d+$/.test(text)) return text;
  return size && size < 0.001 ? value.toExponential(1) : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 3);
};

// The rows with each measure, its spread and its interval in one cell, `0.367 ± 0.200 [0.210, 0.520]`. Columns that hold
// nothing are left out.
export function tableOf({ columns, rows }) {
  const parts = columns.map((name, at) => ({ name, at })).filter(({ name }) => !ENDS.some((end) => name.endsWith(end) && columns.includes(name.slice(0, -end.length))))
    .filter(({ at }) => rows.some((row) => row[at] !== "" && row[at] !== "nan"));
  const numeric = new Set(parts.filter(({ name, at }) => !WORDS.has(name) && rows.every((row) => row[at] === "" || isNumber(row[at]))).map(({ name }) => name));
  const cell = (row, { name, at }) => {
    if (!numeric.has(name)) return row[at];
    const [std, low, high] = ENDS.map((end) => row[columns.indexOf(name + end)]), known = (text) => text !== undefined && text !== "nan" && text !== "";
    return short(row[at]) + (known(std) ? ` ± ${short(std)}` : "") + (known(low) && known(high) ? ` [${short(low)}, ${short(high)}]` : "");
  };
  return { names: parts.map(({ name }) => name), numeric, cells: rows.map((row) => parts.map((part) => cell(row, part))) };
}

export function mount(container, room) {
  const { store, http, help, app } = room;
  store.declare("run", { initial: "", read: (text) => (/^[0-9a-f]{12}$/.test(text) ? text : undefined), write: (text) => text, visit: true });
  const list = make("div", { class: "run-list" });
  const body = make("div", { class: "run-body" }), heading = make("h2", { id: "run-title" });
  const dialog = make("dialog", { class: "run", "aria-labelledby": "run-title" },
    make("header", {}, heading, make("button", { class: "plain", onclick: () => dialog.close() }, "Close")), body);
  dialog.addEventListener("close", () => store.set({ run: "" }));
  app.append(dialog);
  container.append(help.explain({
    name: "Runs",
    means: "What zero-shot and few-shot experiments measured, as their folders hold it.",
    not: "The figures hold for the images named there, not for the study in the views.",
  }), list);
  let runs = [];

  async function load() {
    runs = (await http.json("/v1/runs")).runs;
    room.tabs.hide("runs", runs.length === 0);
    const kinds = [...new Set(runs.map(({ kind }) => kind))].sort().reverse();
    list.replaceChildren(...kinds.map((kind) => make("section", {}, make("h2", {}, { "zero-shot": "Zero-shot", "few-shot": "Few-shot" }[kind] ?? "Damaged"),
      ...runs.filter((run) => run.kind === kind).map(entry))));
  }

  function entry(run) {
    if (run.problem) return make("p", { class: "run-entry" }, make("b", {}, run.title), make("span", {}, run.problem));
    return make("button", { class: "run-entry", "data-run": run.number, onclick: () => store.set({ run: run.number }) },
      make("b", {}, run.title), make("span", {}, `${run.experiment}; ${run.backbone || "pixels"}`));
  }

  async function open() {
    const { run: number } = store.state;
    if (!number) return dialog.open && dialog.close();
    const run = await http.json(`/v1/runs/${number}`);
    if (store.state.run !== number) return;
    heading.textContent = run.title;
    const left = run.left_out ? `${run.left_out} measurements were left out; metrics.json says why.` : null;
    const cut = run.rows_in_file > run.rows.length ? `The first ${run.rows.length} of ${run.rows_in_file} rows.` : null;
    body.replaceChildren(...[
      make("p", { class: "explain" }, `${run.kind}, ${run.experiment}; ${run.backbone || "pixels"}${run.digest ? `, digest ${run.digest.slice(0, 12)}` : ""}`),
      table(run.rows.length ? tableOf(run) : metricsOf(run)),
      ...[cut, left, run.notes].filter(Boolean).map((text) => make("p", { class: "explain" }, text)),
      ...run.figures.map((name) => make("figure", {}, make("img", { src: `/v1/runs/${number}/figures/${encodeURIComponent(name)}.png`, alt: `${run.title}: ${name.replaceAll("_", " ")}`, loading: "lazy" }),
        make("figcaption", {}, name.replaceAll("_", " ")))),
    ]);
    if (!dialog.open) dialog.showModal();
    body.scrollTop = 0;
    find("button", dialog).focus();
  }

  const metricsOf = ({ metrics }) => tableOf({ columns: ["metric", "value"], rows: Object.entries(metrics).map(([name, value]) => [name, value === null ? "nan" : String(value)]) });

  function table({ names, numeric, cells }) {
    const kind = (name) => (numeric.has(name) ? "number" : "");
    const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col", class: kind(name) }, name.replaceAll("_", " "))));
    const rows = cells.map((row) => make("tr", {}, ...row.map((text, i) => make("td", { class: kind(names[i]) }, text))));
    return make("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Results" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  }

  store.on(["info"], () => room.attempt(load));
  store.on(["run", "info"], () => room.attempt(open));
}
