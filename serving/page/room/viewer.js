// A pane: one view on a black stage, with window and level, zoom, maps over it and boxes in it.
//
// Everything lies in a `film`, an element of the view's shape that zoom and pan transform; so maps are drawn once and the
// browser scales them. Maps have one pixel for each patch.
//
//   pane.show({ study, view, backbone, label, source });    the picture; resolves when it is drawn
//   pane.paint("attention", grid, image);                   a map: grid as in the service's answers, ImageData of its patches
//   pane.erase("attention");
//   pane.setScale("cosine", "0.12", "0.98");                the colors' ends, in the pane's footer while a map is painted
//   pane.mark([{ box: [x0, y0, x1, y1], kind: "anchor" }, { box, kind: "match", label: "1", strength: 1 }]);
//   pane.zoom = { scale, x, y }                             x, y: what is in the middle, as fractions of the view; null: all
//   pane.window = { width, center }                         gray values 0 to 255; null: as stored
//   pane.snapshot()                                         a canvas of what is seen

import { find, make, makeSVG } from "./dom.js";
import { FULL_WINDOW, windowTable } from "./gray.js";
import { PageError } from "./http.js";
import { LINES, labelPlace, snapshot } from "./snapshot.js";

export const WHOLE = { scale: 1, x: 0.5, y: 0.5 };
export const MOST_ZOOM = 20;

export class Pane {
  constructor(side) {
    this.side = side; // 0: the left view; 1: the view that it is compared with
    this.shown = this.image = null;
    this.unit = 1;
    this.gray = null;
    this.place = { left: 0, top: 0, width: 0, height: 0, scale: 1 };
    this._zoom = this._window = null;
    this.marks = [];
    this.caption = make("figcaption");
    this.picture = make("canvas", { class: "picture" });
    this.maps = make("div", { class: "maps" });
    this.svg = makeSVG("svg", { "aria-hidden": "true" });
    this.film = make("div", { class: "film" }, this.picture, this.maps, this.svg);
    this.facts = make("output", { class: "facts" });
    this.stage = make("div", { class: "stage", tabindex: 0, role: "application" }, this.film, this.facts);
    this.footer = make("div", { class: "scale" });
    this.element = make("figure", { class: "pane", "data-side": side }, this.caption, this.stage, this.footer);
    this.resizing = new ResizeObserver(() => this.layout());
    this.resizing.observe(this.stage);
  }

  // shown: { study, view, backbone, label, source }. Gives whether another picture is drawn.
  async show(shown) {
    const changed = this.shown?.source !== shown.source;
    this.shown = shown;
    this.stage.setAttribute("aria-label", shown.label);
    if (!changed) return false;
    this.element.dataset.loaded = "";
    const image = new Image();
    image.src = shown.source;
    try {
      await image.decode();
    } catch {
      throw new PageError(`The picture of ${shown.label} cannot be shown.`);
    }
    if (this.shown.source !== shown.source) return false; // another one was chosen meanwhile
    this.image = image;
    this.develop();
    this.layout();
    this.element.dataset.loaded = shown.source;
    if (!performance.getEntriesByName("picture").length) performance.mark("picture");
    return true;
  }

  // The picture with window and level, through a table of 256 gray values.
  develop() {
    if (!this.image) return;
    const { naturalWidth: width, naturalHeight: height } = this.image;
    const canvas = this.picture, context = canvas.getContext("2d", { willReadFrequently: true });
    if (canvas.width !== width || canvas.height !== height || this.gray?.of !== this.image) {
      [canvas.width, canvas.height] = [width, height];
      context.drawImage(this.image, 0, 0);
      const data = context.getImageData(0, 0, width, height);
      const values = new Uint8Array(width * height), colors = new Uint32Array(data.data.buffer);
      for (let i = 0; i < values.length; i++) values[i] = colors[i] & 255;
      this.gray = { of: this.image, values, data, colors };
    }
    const { values, data, colors } = this.gray, table = windowTable(this._window ?? FULL_WINDOW);
    for (let i = 0; i < values.length; i++) colors[i] = table[values[i]];
    context.putImageData(data, 0, 0);
  }

  get ratio() {
    return this.image ? this.image.naturalWidth / this.image.naturalHeight : 1;
  }

  get zoom() { return this._zoom; }
  set zoom(zoom) {
    this._zoom = zoom;
    this.layout();
  }

  get window() { return this._window; }
  set window(window) {
    if (this._window === window || JSON.stringify(this._window) === JSON.stringify(window)) return;
    this._window = window;
    this.develop();
    this.showFacts();
  }

  // Puts the film where zoom and pan want it. The film has the size of the view when all of it is seen.
  layout() {
    const { clientWidth: W, clientHeight: H } = this.stage;
    if (!W || !H) return;
    this.unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 14;
    const { scale, x, y } = this._zoom ?? WHOLE;
    const width = Math.min(W, H * this.ratio), height = width / this.ratio;
    const left = W / 2 - x * width * scale, top = H / 2 - y * height * scale;
    this.place = { left, top, width: width * scale, height: height * scale, scale };
    Object.assign(this.film.style, { width: `${width}px`, height: `${height}px`, transform: `translate(${left}px, ${top}px) scale(${scale})` });
    this.drawMarks();
    this.showFacts();
  }

  showFacts() {
    const parts = [];
    if (this._zoom) parts.push(`${this._zoom.scale.toFixed(1)}×`);
    if (this._window) parts.push(`window ${Math.round(this._window.width)}, level ${Math.round(this._window.center)}`);
    this.facts.textContent = parts.join("   ");
  }

  // Fractions of the view at a point of the screen.
  pointAt(clientX, clientY) {
    const area = this.stage.getBoundingClientRect(), { left, top, width, height } = this.place;
    return { x: (clientX - area.left - left) / width, y: (clientY - area.top - top) / height };
  }

  // A map: image has one pixel for each patch of the square that the network sees; grid says where the view is in it.
  paint(name, grid, image) {
    let canvas = find(`canvas[data-map="${name}"]`, this.maps);
    if (!canvas) {
      canvas = make("canvas", { "data-map": name });
      this.maps.append(canvas);
    }
    const key = `${image.width} ${grid.side} ${grid.letterbox}`;
    if (canvas.dataset.grid !== key) {
      const [top, left, rows, columns] = grid.letterbox;
      canvas.dataset.grid = key;
      [canvas.width, canvas.height] = [image.width, image.height];
      canvas.style.cssText = `width:${(100 * grid.side) / columns}%;height:${(100 * grid.side) / rows}%;` +
        `left:${(-100 * left) / columns}%;top:${(-100 * top) / rows}%`;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    this.element.classList.add("active");
  }

  erase(name) {
    find(`canvas[data-map="${name}"]`, this.maps)?.remove();
    this.element.classList.toggle("active", this.maps.childElementCount > 0);
  }

  // What the map's colors stand for, below the view.
  setScale(name, low, high) {
    if (this.scale?.name !== name) {
      this.scale = { name, low: make("span"), high: make("span") };
      this.footer.replaceChildren(make("span", {}, name), this.scale.low, make("i"), this.scale.high);
    }
    this.scale.low.textContent = low;
    this.scale.high.textContent = high;
  }

  // Boxes in pixels of the view; height and width of the view give their scale.
  mark(marks, size = null) {
    this.marks = marks;
    if (size) this.size = size;
    this.drawMarks();
  }

  drawMarks() {
    if (!this.marks.length) {
      if (this.svg.firstChild) this.svg.replaceChildren();
      return;
    }
    const { width, height } = this.size;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const pixel = (this.unit * width) / this.place.width; // one pixel of the screen, or more where all is drawn larger
    const nodes = [];
    for (const { box: [x0, y0, x1, y1], kind, label, strength = 1 } of this.marks) {
      nodes.push(makeSVG("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: kind, opacity: strength, "stroke-width": LINES[kind] * pixel }));
      if (!label) continue;
      const text = { ...labelPlace([x0, y0, x1], pixel), "font-size": 12.5 * pixel, "stroke-width": 3 * pixel };
      nodes.push(makeSVG("text", text, label));
    }
    this.svg.replaceChildren(...nodes);
  }

  snapshot() {
    return snapshot(this);
  }

  remove() {
    this.resizing.disconnect();
    this.element.remove();
  }
}
