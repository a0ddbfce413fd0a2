"use strict";
// Curves answer the pointer: the nearest step of every curve, told in words under the chart. A name in the
// legend hides its curves in all charts.

const hidden = new Set();

function tell(chart, x) {
  const data = JSON.parse(chart.dataset.chart);
  const line = chart.querySelector(".cursor");
  const words = chart.parentElement.querySelector(".told");
  const step = data.low + ((x - data.left) / data.width) * (data.high - data.low);
  words.textContent = "";
  let at = null;
  for (const curve of data.curves) {
    if (hidden.has(curve.name) || !curve.points.length) continue;
    const near = curve.points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
    if (at === null) {
      at = near[0];
      words.append(`step ${at} `);
    }
    const value = document.createElement("b");
    value.style.color = `var(--c${curve.colour})`;
    const spread = near[2] === null ? "" : ` ± ${Number(near[2].toPrecision(2))}`;
    value.textContent = `${Number(near[1].toPrecision(4))}${spread}`;
    value.title = curve.name;
    words.append(value, " ");
  }
  if (at === null) return;
  const place = data.left + ((at - data.low) / (data.high - data.low || 1)) * data.width;
  line.setAttribute("x1", place);
  line.setAttribute("x2", place);
  line.style.visibility = "visible";
}

for (const chart of document.querySelectorAll("svg[data-chart]")) {
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    tell(chart, ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width);
  });
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!shown));
    if (shown) hidden.add(button.dataset.name);
    else hidden.delete(button.dataset.name);
    for (const part of document.querySelectorAll("svg [data-of]")) {
      part.style.display = hidden.has(part.dataset.of) ? "none" : "";
    }
  });
}
