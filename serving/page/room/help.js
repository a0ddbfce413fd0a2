// What each map means and does not mean, in a sentence each, and the keys: beside the maps and in one dialog.

import { find, make } from "./dom.js";

export function makeHelp(app) {
  const maps = [], keys = [];
  const dialog = make("dialog", { class: "help", "aria-label": "Help" });
  app.append(dialog);

  // A map's entry: `means` and `not` are one sentence each. Returns the paragraph to put beside the map.
  function explain({ name, means, not }) {
    maps.push({ name, means, not });
    return make("p", { class: "explain" }, `${means} `, make("em", {}, not));
  }

  const addKeys = (...rows) => keys.push(...rows); // ["N", "next study"]

  function open() {
    const terms = maps.flatMap(({ name, means, not }) => [make("dt", {}, name), make("dd", {}, `${means} `, make("em", {}, not))]);
    const rows = keys.map(([key, what]) => make("tr", {}, make("th", { scope: "row" }, make("kbd", {}, key)), make("td", {}, what)));
    dialog.replaceChildren(
      make("header", {}, make("h2", {}, "Help"), make("button", { class: "plain", onclick: () => dialog.close() }, "Close")),
      make("h3", {}, "What the maps mean"), make("dl", {}, ...terms),
      make("h3", {}, "Mouse and keys"), make("table", {}, ...rows),
    );
    dialog.showModal();
    find("button", dialog).focus();
  }

  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  return { explain, addKeys, open };
}
