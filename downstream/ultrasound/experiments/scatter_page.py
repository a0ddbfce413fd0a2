"""A cloud of points in three dimensions as one HTML file that can be turned with the mouse.

The points, the style and the script are in the page; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class PointCloud:
    """Points (P, 3), each with a label and a text that is shown where the mouse points.

    colors: label -> `#rrggbb`, in the order of the legend.
    """

    points: np.ndarray
    labels: Sequence[str]
    texts: Sequence[str]
    colors: Mapping[str, str]
    axes: tuple[str, str, str] = ("1", "2", "3")

    def __repr__(self) -> str:
        return f"PointCloud({len(self.points)} points, {len(self.colors)} labels)"


def scatter_page(title: str, note: str, cloud: PointCloud) -> str:
    """The page: dragging turns, the wheel zooms, the legend's buttons hide labels, pointing shows a text."""
    center_3 = (cloud.points.min(axis=0) + cloud.points.max(axis=0)) / 2
    radius = float(np.abs(cloud.points - center_3).max()) or 1.0
    names = list(cloud.colors)
    content = {
        "points": np.round((cloud.points - center_3) / radius, 4).tolist(),
        "label": [names.index(label) for label in cloud.labels],
        "texts": list(cloud.texts),
        "names": names,
        "colors": list(cloud.colors.values()),
        "axes": list(cloud.axes),
    }
    # Inside a script element only `</` and `<!--` could end or change it.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"TITLE": html.escape(title), "NOTE": html.escape(note), "DATA": data}
    page = _PAGE
    for name, text in parts.items():
        page = page.replace(f"@{name}@", text)
    return page


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
  body { font: 15px/1.4 system-ui, sans-serif; margin: 1rem; color: #1c1c1c; background: #fff; }
  h1 { font-size: 1.15rem; margin: 0 0 .3rem; }
  p { margin: 0 0 .6rem; color: #444; }
  canvas { width: 100%; height: 72vh; border: 1px solid #ccc; touch-action: none; cursor: grab; }
  button { font: inherit; border: 1px solid #bbb; background: #fff; padding: .15rem .6rem; margin: 0 .3rem .4rem 0; }
  button[aria-pressed=false] { opacity: .35; }
  button i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
  #words { min-height: 1.4em; }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<p>@NOTE@ Drag or press the arrow keys to turn, use the wheel or + and - to come nearer.</p>
<div id="legend"></div>
<canvas id="cloud" tabindex="0" role="img" aria-label="@TITLE@"></canvas>
<p id="words" aria-live="polite"></p>
<script>
const data = @DATA@;
const canvas = document.getElementById("cloud"), pen = canvas.getContext("2d");
const shown = data.names.map(() => true);
let yaw = 0.7, pitch = 0.4, zoom = 1, dragFrom = null, drawn = [];

data.names.forEach((name, label) => {
  const button = document.createElement("button"), dot = document.createElement("i");
  dot.style.background = data.colors[label];
  button.append(dot, name);
  button.setAttribute("aria-pressed", "true");
  button.onclick = () => {
    shown[label] = !shown[label];
    button.setAttribute("aria-pressed", String(shown[label]));
    draw();
  };
  document.getElementById("legend").append(button);
});

function turned([x, y, z]) {
  const c = Math.cos(yaw), s = Math.sin(yaw), C = Math.cos(pitch), S = Math.sin(pitch);
  const across = c * x + s * z, deep = -s * x + c * z;
  return [across, C * y - S * deep, S * y + C * deep];
}

function placed(point) {
  const [x, y, z] = turned(point), near = 3.2 / (3.2 - z);
  const scale = 0.42 * Math.min(canvas.width, canvas.height) * zoom * near;
  return [canvas.width / 2 + x * scale, canvas.height / 2 - y * scale, z, near];
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  pen.lineWidth = ratio;
  pen.font = 12 * ratio + "px sans-serif";
  [[1, 0, 0], [0, 1, 0], [0, 0, 1]].forEach((end, axis) => {
    const [x0, y0] = placed(end.map((value) => -value)), [x1, y1] = placed(end);
    pen.strokeStyle = pen.fillStyle = "#999";
    pen.beginPath(); pen.moveTo(x0, y0); pen.lineTo(x1, y1); pen.stroke();
    pen.fillText(data.axes[axis], x1 + 4 * ratio, y1);
  });
  drawn = data.points.map((point, index) => [...placed(point), index]).filter(([, , , , i]) => shown[data.label[i]]);
  drawn.sort((a, b) => a[2] - b[2]);
  for (const [x, y, , near, index] of drawn) {
    pen.globalAlpha = data.colors[data.label[index]] === "#9a9a9a" ? 0.3 : 0.9;
    pen.fillStyle = data.colors[data.label[index]];
    pen.beginPath(); pen.arc(x, y, 2.1 * near * ratio, 0, 7); pen.fill();
  }
  pen.globalAlpha = 1;
}

function showText(event) {
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
  let best = null, least = (7 * ratio) ** 2;
  for (const [px, py, , , index] of drawn) {
    const far = (px - x) ** 2 + (py - y) ** 2;
    if (far <= least) { least = far; best = index; }
  }
  document.getElementById("words").textContent =
    best === null ? "" : data.names[data.label[best]] + ": " + data.texts[best];
}

canvas.onpointerdown = (event) => {
  dragFrom = [event.clientX, event.clientY];
  canvas.setPointerCapture(event.pointerId);
};
canvas.onpointerup = canvas.onpointercancel = () => { dragFrom = null; };
canvas.onpointermove = (event) => {
  if (!dragFrom) { showText(event); return; }
  yaw += (event.clientX - dragFrom[0]) / 150;
  pitch = Math.max(-1.5, Math.min(1.5, pitch + (event.clientY - dragFrom[1]) / 150));
  dragFrom = [event.clientX, event.clientY];
  draw();
};
canvas.onwheel = (event) => { event.preventDefault(); zoom *= Math.exp(-event.deltaY / 700); draw(); };
canvas.onkeydown = (event) => {
  const turn = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
  if (turn) { event.preventDefault(); yaw += turn[0]; pitch = Math.max(-1.5, Math.min(1.5, pitch + turn[1])); }
  if (event.key === "+") zoom *= 1.1;
  if (event.key === "-") zoom /= 1.1;
  draw();
};
window.onresize = draw;
draw();
</script>
</body>
</html>
"""
