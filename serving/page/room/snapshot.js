// A pane as a canvas: what is seen of the picture, its maps and its boxes, in pixels of the screen.

import { all, make } from "./dom.js";

export const LINES = { anchor: 2.5, match: 2 }; // pixels

// Where the number of a box stands, in pixels of the view: in its corner, or above it where the box is small. pixel: one of the
// screen's.
export function labelPlace([x0, y0, x1], pixel) {
  const small = x1 - x0 < 22 * pixel;
  return { x: x1 - (small ? 0 : 4 * pixel), y: small ? y0 - 3 * pixel : y0 + 14 * pixel };
}

export function snapshot(pane) {
  const ratio = window.devicePixelRatio || 1, { clientWidth: W, clientHeight: H } = pane.stage;
  const canvas = make("canvas", { width: Math.round(W * ratio), height: Math.round(H * ratio) });
  const context = canvas.getContext("2d"), { left, top, width, height } = pane.place;
  context.scale(ratio, ratio);
  context.fillRect(0, 0, W, H);
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  if (pane.element.classList.contains("active")) context.filter = getComputedStyle(pane.picture).filter;
  context.drawImage(pane.picture, left, top, width, height);
  context.filter = "none";
  const area = pane.film.getBoundingClientRect();
  for (const map of all("canvas", pane.maps)) {
    const place = map.getBoundingClientRect();
    context.drawImage(map, place.left - area.left + left, place.top - area.top + top, place.width, place.height);
  }
  for (const mark of pane.marks) drawMark(context, pane, mark);
  return canvas;
}

function drawMark(context, { place: { left, top, width }, size, unit }, { box: [x0, y0, x1, y1], kind, label, strength = 1 }) {
  const scale = width / size.width;
  context.globalAlpha = strength;
  context.strokeStyle = kind === "anchor" ? "#ff4d4d" : "#fff";
  context.lineWidth = LINES[kind] * unit;
  context.strokeRect(left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  if (label) {
    const place = labelPlace([x0, y0, x1], unit / scale), [x, y] = [left + place.x * scale, top + place.y * scale];
    context.font = `700 ${12.5 * unit}px "IBM Plex Sans", sans-serif`;
    context.textAlign = "right";
    context.lineWidth = 3 * unit;
    context.strokeStyle = "rgb(0 0 0 / 0.85)";
    context.fillStyle = "#fff";
    context.strokeText(label, x, y);
    context.fillText(label, x, y);
  }
  context.globalAlpha = 1;
}
