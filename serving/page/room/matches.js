// The tab of similar patches: the anchor and its five best patches of the other view cut out, a row for each backbone.

import { make } from "./dom.js";

const AROUND = 1; // patches shown on each side of the one in the box
const SIDE = 72; // pixels of a cutting's canvas

export function makeMatches(container) {
  const hint = make("p", { class: "hint", "aria-live": "polite" }), body = make("div", { class: "matches" });
  container.append(hint, body);
  const rows = [];
  let waiting = 0;

  function say(pinned) {
    const words = pinned
      ? "Pinned. Click another patch to move the pin, the same one or Esc to remove it."
      : "Point at a patch: what looks alike lights up in both views, and the five best patches of the other view are framed. Click to pin.";
    if (hint.textContent !== words) hint.textContent = words;
  }

  // results: [{ label, anchor: { pane, box, size }, top: [{ pane, box, size, cosine }] }]; size: of the view; drawn with the next frame.
  function show(results) {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => draw(results));
  }

  function draw(results) {
    while (rows.length < results.length) rows.push(makeRow());
    rows.forEach(({ node }, number) => { node.hidden = number >= results.length; });
    results.forEach(({ label, anchor, top }, number) => {
      const row = rows[number];
      row.title.textContent = label;
      [anchor, ...top].forEach((one, i) => fill(row.cuttings[i], one));
      row.cuttings.forEach(({ figure }, i) => { figure.hidden = i > top.length; });
    });
  }

  function makeRow() {
    const title = make("h2"), cuttings = [];
    for (let i = 0; i < 6; i++) {
      const canvas = make("canvas", { width: SIDE, height: SIDE }), words = make("figcaption");
      cuttings.push({ canvas, words, number: i, figure: make("figure", { class: i ? "match" : "anchor" }, canvas, words) });
    }
    const node = make("section", {}, title, make("div", { class: "cuttings" }, ...cuttings.map(({ figure }) => figure)));
    body.append(node);
    return { node, title, cuttings };
  }

  function fill({ canvas, words, number }, { pane, box, size, cosine }) {
    const context = canvas.getContext("2d"), [x0, y0, x1, y1] = box;
    const scale = pane.picture.width / size.width, side = Math.max(x1 - x0, y1 - y0) * (1 + 2 * AROUND);
    const left = (x0 + x1 - side) / 2, top = (y0 + y1 - side) / 2, unit = SIDE / side;
    context.fillStyle = "#000";
    context.fillRect(0, 0, SIDE, SIDE);
    context.drawImage(pane.picture, left * scale, top * scale, side * scale, side * scale, 0, 0, SIDE, SIDE);
    context.strokeStyle = number ? "#fff" : "#ff4d4d";
    context.lineWidth = 1.5;
    context.strokeRect((x0 - left) * unit, (y0 - top) * unit, (x1 - x0) * unit, (y1 - y0) * unit);
    words.textContent = number ? `${number}  ${cosine.toFixed(2)}` : "anchor";
  }

  return { say, show };
}
