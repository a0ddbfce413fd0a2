// Patches that look alike: the patch under the pointer, or the pinned one, and what resembles it, one backbone beside the other.

import { makeMatches } from "./matches.js";
import { best, colored, cosine, makeMatrix, middleOf, patchAt, scoresOf } from "./matrix.js";

export const BEST = 5;

export function mount(container, room) {
  const { store, help } = room;
  const matrices = new Map(); // backbone -> matrix of the views shown
  const list = makeMatches(container);
  let wanted = "";

  container.append(help.explain({
    name: "Patches",
    means: "The brighter a place, the closer the backbone's features there are to those of the red patch; each view's colors begin where its most similar third begins.",
    not: "It does not say that two places are the same organ, or that either is abnormal.",
  }));

  async function load() {
    const { study, other, views, backbones } = store.state;
    if (!study) return;
    const right = other ?? study, names = `a=${study.study}/${views[0]}&b=${right.study}/${views[1]}`;
    wanted = `${names} ${backbones}`;
    const current = wanted;
    room.app.dataset.matrix = "";
    matrices.clear();
    draw();
    await Promise.all(backbones.map(async (backbone) => {
      const answer = await room.matrix(`/v1/similarity?${names}&backbone=${backbone}`);
      if (wanted === current) matrices.set(backbone, makeMatrix(answer));
    }));
    if (wanted !== current) return; // another choice was made meanwhile
    room.app.dataset.matrix = wanted;
    draw();
  }

  // The anchor is the pin, or where the pointer is. The left view has the map of the backbone under the pointer.
  function draw() {
    const { pin, backbones, panes } = store.state, anchor = pin ?? store.state.anchor;
    list.say(pin !== null);
    if (!anchor || !matrices.size || room.tabs.drawsMap()) return clear();
    const began = performance.now(), lead = matrices.has(anchor.backbone) ? anchor.backbone : backbones[0];
    for (const pane of panes) highlight(pane, anchor, pane.side === 0 ? lead : pane.shown.backbone);
    list.show(backbones.filter((backbone) => matrices.has(backbone)).map((backbone) => result(anchor, backbone)));
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
    pane.setScale("cosine", cosine(matrix, low).toFixed(2), cosine(matrix, high).toFixed(2));
    pane.element.dataset.anchor = isAnchor ? patch : "";
    pane.element.dataset.top = top.join(" ");
  }

  // What the tab shows of one backbone.
  function result(anchor, backbone) {
    const { panes, backbones, info } = store.state, matrix = matrices.get(backbone);
    const paneOf = (side) => panes[side === 0 ? 0 : 1 + backbones.indexOf(backbone)];
    const here = matrix.views[anchor.side], patch = patchAt(here, anchor), there = matrix.views[1 - anchor.side];
    const scores = scoresOf(matrix, anchor.side, patch, 1 - anchor.side);
    const top = best(scores, there.inView, BEST, -1).map((one) => ({
      pane: paneOf(1 - anchor.side), box: there.boxes[one], size: there, cosine: cosine(matrix, scores[one]),
    }));
    return { label: info.backbones[backbone].label, anchor: { pane: paneOf(anchor.side), box: here.boxes[patch], size: here }, top };
  }

  function clear() {
    for (const pane of store.state.panes) {
      pane.erase("similar");
      pane.mark([]);
      pane.element.dataset.anchor = pane.element.dataset.top = "";
    }
    list.show([]);
  }

  bindPatches(room, ({ side, backbone }) => (matrices.get(backbone) ?? matrices.get(store.state.backbones[0]))?.views[side]);
  store.on(["study", "other", "views", "backbones"], () => room.attempt(load));
  store.on(["anchor", "pin", "tab", "panes", "shown", "windows"], draw);
}

// What gestures need to know of patches. gridOf: the patches of a side's view, undefined before the matrix is there.
function bindPatches(room, gridOf) {
  const { store } = room;

  // Whether two points lie in one patch.
  room.samePatch = (a, b) => {
    const view = gridOf(a);
    return view !== undefined && a.side === b.side && patchAt(view, a) === patchAt(view, b);
  };

  // Moves the anchor by patches, as the arrow keys do; it begins in the middle of the pane's view.
  room.moveAnchor = (pane, right, down) => {
    const here = { side: pane.side, backbone: pane.shown.backbone }, view = gridOf(here);
    if (!view) return;
    const old = store.state.pin ?? store.state.anchor, begins = old?.side !== pane.side;
    const from = patchAt(view, begins ? { x: 0.5, y: 0.5 } : old);
    const row = Math.floor(from / view.columns) + (begins ? 0 : down), column = (from % view.columns) + (begins ? 0 : right);
    const patch = row * view.columns + column;
    if (column < 0 || column >= view.columns || row < 0 || row >= view.columns || !view.inside[patch]) return;
    store.set({ pin: null, anchor: { ...here, ...middleOf(view, patch) } });
  };
}
