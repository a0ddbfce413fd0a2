// Patches that look alike: the patch under the pointer, or the pinned one, and what resembles it, one backbone beside the other.

import { make } from "./dom.js";
import { best, colored, cosine, makeMatrix, middleOf, patchAt, scoresOf } from "./matrix.js";

export const BEST = 5;

export function mount(container, room) {
  const { store, help } = room;
  const matrices = new Map(); // backbone -> matrix of the views shown
  let wanted = "";

  container.append(help.explain({
    name: "Similar patches",
    means: "The brighter a place, the closer the encoder's features there are to those of the red patch.",
    not: "It does not say that two places are the same organ or that either is abnormal.",
  }));

  async function load() {
    const { study, other, views, backbones } = store.state;
    if (!study) return;
    const right = other ?? study, names = `a=${study.study}/${views[0]}&b=${right.study}/${views[1]}`;
    wanted = `${names} ${backbones}`;
    const asked = wanted;
    matrices.clear();
    clear();
    await Promise.all(backbones.map(async (backbone) => {
      const answer = await room.matrix(`/v1/similarity?${names}&backbone=${backbone}`);
      if (wanted === asked) matrices.set(backbone, makeMatrix(answer));
    }));
    if (wanted !== asked) return; // another choice was made meanwhile
    room.app.dataset.matrix = wanted;
    draw();
  }

  // The anchor: the pin, or where the pointer is. lead: the backbone whose map the left view has.
  function draw() {
    const anchor = store.state.pin ?? store.state.anchor;
    if (!anchor || room.tabs.drawsMap()) return clear();
    const lead = matrices.has(anchor.backbone) ? anchor.backbone : store.state.backbones[0];
    const began = performance.now();
    for (const pane of store.state.panes) highlight(pane, anchor, pane.side === 0 ? lead : pane.shown?.backbone);
    performance.clearMeasures("hover");
    performance.measure("hover", { start: began, end: performance.now() });
  }

  function highlight(pane, anchor, backbone) {
    const matrix = matrices.get(backbone);
    if (!matrix) return;
    const isAnchor = pane.side === anchor.side, view = matrix.views[pane.side];
    const patch = patchAt(matrix.views[anchor.side], anchor), scores = scoresOf(matrix, anchor.side, patch, pane.side);
    const [low, high] = colored(view, scores, isAnchor ? patch : -1);
    pane.paint("similar", view, view.image);
    const top = isAnchor ? [] : best(scores, view.inView, BEST, -1);
    const marks = top.map((one, i) => ({ box: view.boxes[one], kind: "match", label: i + 1, strength: 1 - 0.12 * i }));
    pane.mark(isAnchor ? [{ box: view.boxes[patch], kind: "anchor" }] : marks.reverse(), view);
    pane.setScale(cosine(matrix, low), cosine(matrix, high));
    pane.element.dataset.anchor = isAnchor ? patch : "";
    pane.element.dataset.top = top.join(" ");
  }

  function clear() {
    for (const pane of store.state.panes) {
      pane.erase("similar");
      pane.mark([]);
      pane.element.dataset.anchor = pane.element.dataset.top = "";
    }
  }

  const gridOf = ({ side, backbone }) => (matrices.get(backbone) ?? matrices.get(store.state.backbones[0]))?.views[side];

  // Whether two points lie in one patch.
  room.samePatch = (a, b) => {
    const view = gridOf(a);
    return view !== undefined && a.side === b.side && patchAt(view, a) === patchAt(view, b);
  };

  // Moves the anchor by patches, as the arrow keys do; it begins in the middle of the pane's view.
  room.moveAnchor = (pane, right, down) => {
    const { anchor, pin } = store.state, here = { side: pane.side, backbone: pane.shown.backbone };
    const view = gridOf(here), old = pin ?? anchor;
    if (!view) return;
    const from = old?.side === pane.side ? patchAt(view, old) : patchAt(view, { x: 0.5, y: 0.5 });
    const row = Math.floor(from / view.columns) + down, column = (from % view.columns) + right;
    const patch = row * view.columns + column;
    if (column < 0 || column >= view.columns || row < 0 || row >= view.columns || !view.inside[patch]) return;
    store.set({ pin: null, anchor: { ...here, ...middleOf(view, patch) } });
  };

  store.on(["study", "other", "views", "backbones"], () => room.attempt(load));
  store.on(["anchor", "pin", "tab", "panes"], draw);
}
