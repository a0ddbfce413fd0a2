// Attention of the last block: where the summary of a view (the CLS token) looks, head by head, in a color each.

import { all, make } from "./dom.js";
import { asCanvas, drawSmall, paneHeading, patchesOf, slider, smallPicture, whileOpen } from "./maps.js";

const MEAN = [255, 205, 112], OPACITY = 0.75;
const glowing = 60; // percent of the attention, unless another share is asked for

// Hues evenly spaced from blue on, of equal lightness; as the service's own pictures have them.
export function headColors(heads) {
  const hue = (at) => (t) => {
    const x = (((at + t) % 1) + 1) % 1, [l, s] = [0.64, 0.85], high = l + s - l * s, low = 2 * l - high;
    const value = x < 1 / 6 ? low + (high - low) * 6 * x : x < 0.5 ? high : x < 2 / 3 ? low + (high - low) * (2 / 3 - x) * 6 : low;
    return Math.round(255 * value);
  };
  return Array.from({ length: heads }, (_, head) => [1 / 3, 0, -1 / 3].map(hue(0.56 + head / heads)));
}

// A row of attention as strengths 0 to 1: 0 is the next of the view's patches after the strongest that together hold `keep`
// percent of the attention, 1 the 99.5th percentile, as in the service's own pictures.
export function strengths(row, { inView, edge }, keep) {
  const sorted = Float32Array.from(inView, (patch) => row[patch]).sort(), last = sorted.length - 1;
  const enough = sorted.reduce((sum, value) => sum + value, 0) * keep / 100;
  let weakest = last;
  for (let held = sorted[last]; weakest > 0 && held < enough;) held += sorted[--weakest];
  const low = sorted.findLast((value) => value < sorted[weakest]) ?? sorted[0];
  const scale = 1 / Math.max(sorted[Math.round(0.995 * last)] - low, 1e-12);
  return Array.from(row, (_, patch) => Math.min(Math.max((row[edge(patch)] - low) * scale, 0), 1));
}

// Heads in their colors as an image of the patches; where they overlap, colors mix by weight.
export function colored(columns, rows, colors) {
  const image = new ImageData(columns, columns);
  for (let patch = 0; patch < columns * columns; patch++) {
    let [weight, red, green, blue] = [0, 0, 0, 0];
    rows.forEach((row, head) => {
      const t = row[patch] * OPACITY, [r, g, b] = colors[head];
      [weight, red, green, blue] = [weight + t, red + t * r, green + t * g, blue + t * b];
    });
    if (weight > 0) image.data.set([red / weight, green / weight, blue / weight, 255 * Math.min(weight, OPACITY)], 4 * patch);
  }
  return image;
}

const nameOf = (head) => ({ mean: "mean", all: "all heads" })[head] ?? `head ${Number(head) + 1}`;

export function mount(container, room) {
  const { store, http, help } = room, ask = http.cached(http.binary, 32);
  store.declare("head", { initial: "mean", read: (text) => (/^(mean|all|\d{1,2})$/.test(text) ? text : undefined), write: String });
  store.declare("keep", { initial: glowing, read: (text) => (/^\d{1,3}$/.test(text) && text >= 5 && text <= 100 ? Number(text) : undefined), write: String });
  const strips = make("div", { class: "strips" });
  container.append(
    help.explain({
      name: "Attention",
      means: "The brighter a place, the more the backbone's summary of the view draws from it in the last block; each head has a color.",
      not: "It does not say why, nor that something is abnormal there.",
    }),
    slider(room, "keep", { name: "Show the strongest patches that hold", low: 5, high: 100, step: 5, unit: "% of the attention" }),
    strips,
  );

  // What one pane's view and backbone give: patches, and the map of any head.
  async function mapsOf({ study, view, backbone }) {
    const { header, bytes } = await ask(`/v1/attention?view=${study}/${view}&backbone=${backbone}`);
    const grid = header.view, heads = header.heads, patches = patchesOf(grid), count = grid.boxes.length;
    const numbers = new Float32Array(bytes.buffer, bytes.byteOffset, heads * count), colors = headColors(heads);
    const rows = Array.from({ length: heads }, (_, head) => numbers.subarray(head * count, (head + 1) * count));
    const mean = Float32Array.from({ length: count }, (_, patch) => rows.reduce((sum, row) => sum + row[patch], 0) / heads);
    const map = (head, keep) => {
      const chosen = head === "mean" ? [mean] : head === "all" ? rows : [rows[Number(head)]];
      const its = head === "mean" ? [MEAN] : head === "all" ? colors : [colors[Number(head)]];
      return colored(patches.columns, chosen.map((row) => strengths(row, patches, keep)), its);
    };
    return { grid, heads, colors, map };
  }

  async function draw(isStale) {
    const { panes, head, keep } = store.state;
    const drawn = await Promise.all(panes.map(async (pane) => {
      const [maps, image] = await Promise.all([mapsOf(pane.shown), smallPicture(pane.shown.study, pane.shown.view)]);
      return { pane, image, ...maps };
    }));
    if (isStale()) return;
    for (const { pane, grid, heads, map } of drawn) {
      const there = head in { mean: 0, all: 0 } || Number(head) < heads; // another backbone may have fewer heads
      there ? pane.paint("attention", grid, map(head, keep)) : pane.erase("attention");
    }
    const names = panes.map(({ shown }) => `${shown.study}/${shown.view}/${shown.backbone}`);
    const key = [keep, ...names].join(" ");
    const once = drawn.filter((_, i) => names.indexOf(names[i]) === i); // a study of one view stands beside itself
    if (strips.dataset.of !== key) strips.replaceChildren(...once.map((one) => strip(one, keep)));
    strips.dataset.of = key;
    for (const tile of all(".tile", strips)) tile.setAttribute("aria-pressed", tile.dataset.head === head);
    container.dataset.drawn = `${head} ${key}`;
  }

  function strip({ pane, image, grid, heads, colors, map }, keep) {
    const kinds = ["mean", "all", ...Array.from({ length: heads }, (_, head) => String(head))];
    const tiles = kinds.map((head) => {
      const canvas = make("canvas");
      drawSmall(canvas, image, grid, asCanvas(map(head, keep)));
      const dot = /\d/.test(head) ? make("i", { class: "dot", style: `background: rgb(${colors[Number(head)]})` }) : null;
      return make("button", { class: "tile", "data-head": head, onclick: () => store.set({ head }) }, canvas, make("span", {}, dot, nameOf(head)));
    });
    return make("section", { class: "strip", "data-side": pane.side }, paneHeading(room, pane), make("div", { class: "tiles" }, ...tiles));
  }

  whileOpen(room, "attention", ["head", "keep"], draw);
  room.captions.set("attention", () => {
    const { head, keep } = store.state;
    return `Attention of the last block, ${head === "mean" ? "mean of the heads" : nameOf(head)}; the strongest patches that hold ${keep} %.`;
  });
}
