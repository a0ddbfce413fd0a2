// Maps of patches, as attention and colors draw them: over a view, and as small pictures beside each other.

import { make } from "./dom.js";
import { PageError } from "./http.js";
import { picture } from "./studies.js";

const SMALL = 384; // pixels of the longer side of a small picture

// The patches of a view: grid is a view of an answer's header. `edge` gives for each patch the nearest one in the view, so
// that smoothing does not mix in what the network saw of the border.
export function patchesOf(grid) {
  const columns = grid.side / grid.patch, inView = [];
  let [top, bottom, left, right] = [columns, -1, columns, -1];
  grid.inside.forEach((inside, patch) => {
    if (!inside) return;
    inView.push(patch);
    const row = Math.floor(patch / columns), column = patch % columns;
    [top, bottom, left, right] = [Math.min(top, row), Math.max(bottom, row), Math.min(left, column), Math.max(right, column)];
  });
  if (!inView.length) return { columns, inView: grid.inside.map((_, patch) => patch), edge: (patch) => patch };
  const limited = (value, low, high) => Math.min(Math.max(value, low), high);
  const edge = (patch) => limited(Math.floor(patch / columns), top, bottom) * columns + limited(patch % columns, left, right);
  return { columns, inView, edge };
}

// The views of a study that were loaded last, small.
const loaded = new Map();
export function smallPicture(study, view) {
  const source = picture(study, view, SMALL);
  if (!loaded.has(source)) {
    const image = new Image();
    image.src = source;
    loaded.set(source, image.decode().then(() => image, () => { loaded.delete(source); throw new PageError("A picture of this study cannot be shown."); }));
    if (loaded.size > 64) loaded.delete(loaded.keys().next().value);
  }
  return loaded.get(source);
}

// A picture with a map over it. map: a canvas of the square's patches; dim: how much of the picture's light stays.
export function drawSmall(canvas, image, grid, map, { dim = 0.7 } = {}) {
  const [top, left, rows, columns] = grid.letterbox.map((edge) => edge / grid.patch);
  const { naturalWidth: width, naturalHeight: height } = image;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.filter = `brightness(${dim})`;
  context.drawImage(image, 0, 0);
  context.filter = "none";
  context.imageSmoothingQuality = "high";
  context.drawImage(map, left, top, columns, rows, 0, 0, width, height);
}

// An ImageData as a canvas, which can be drawn larger.
export function asCanvas(image) {
  const canvas = make("canvas", { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// A slider with its name and value: it stands in the state, and so in the link.
export function slider(room, field, { name, low, high, step, unit }) {
  const { store } = room, value = make("output");
  const input = make("input", { type: "range", "aria-label": name, min: low, max: high, step, oninput: () => store.set({ [field]: Number(input.value) }) });
  const show = () => {
    input.value = store.state[field];
    value.textContent = `${store.state[field]} ${unit}`;
    input.setAttribute("aria-valuetext", value.textContent);
  };
  store.on([field], show);
  show();
  return make("label", { class: "slider" }, make("span", {}, name), input, value);
}

export function checkbox(room, field, name) {
  const { store } = room, input = make("input", { type: "checkbox", "aria-label": name, onchange: () => store.set({ [field]: input.checked }) });
  const show = () => { input.checked = store.state[field]; };
  store.on([field], show);
  show();
  return make("label", { class: "check" }, input, name);
}

// A panel that draws on the views while its tab is open: draw(isStale) is called when what it depends on has changed.
export function whileOpen(room, id, fields, draw) {
  let turn = 0;
  const isOpen = () => room.tabs.current().id === id && room.store.state.study !== null;
  room.store.on([...fields, "tab", "shown"], () => {
    const mine = ++turn;
    for (const pane of room.store.state.panes) pane.element.classList.toggle(`with-${id}`, isOpen());
    if (!isOpen()) return room.store.state.panes.forEach((pane) => pane.erase(id));
    room.attempt(() => draw(() => mine !== turn));
  });
}

// What a pane shows, with its backbone where there are several.
export function paneHeading(room, pane) {
  const { info, backbones } = room.store.state, backbone = info.backbones[pane.shown.backbone].label;
  return make("h2", { title: backbone }, pane.shown.label, backbones.length > 1 ? make("small", {}, backbone) : null);
}
