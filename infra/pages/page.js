"use strict";
// Under the pointer: the values of every curve at the nearest step, written below the chart. A click on a name in the
// legend hides its curves in all charts.

const hidden = new Set();

function showValues(chart, x) {
  const data = JSON.parse(chart.dataset.chart);
  const line = chart.querySelector(".cursor");
  const readout = chart.parentElement.querySelector(".readout");
  const step = data.low + ((x - data.left) / data.width) * (data.high - data.low);
  readout.textContent = "";
  let shownStep = null;
  for (const curve of data.curves) {
    if (hidden.has(curve.name) || !curve.points.length) continue;
    const near = curve.points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
    if (shownStep === null) {
      shownStep = near[0];
      readout.append(`step ${shownStep} `);
    }
    const value = document.createElement("b");
    value.style.color = `var(--c${curve.color})`;
    const spread = near[2] === null ? "" : ` ± ${Number(near[2].toPrecision(2))}`;
    value.textContent = `${Number(near[1].toPrecision(4))}${spread}`;
    value.title = curve.name;
    readout.append(value, " ");
  }
  if (shownStep === null) return;
  const x1 = data.left + ((shownStep - data.low) / (data.high - data.low || 1)) * data.width;
  line.setAttribute("x1", x1);
  line.setAttribute("x2", x1);
  line.style.visibility = "visible";
}

for (const chart of document.querySelectorAll("svg[data-chart]")) {
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    showValues(chart, ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width);
  });
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const visible = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!visible));
    if (visible) hidden.add(button.dataset.name);
    else hidden.delete(button.dataset.name);
    for (const part of document.querySelectorAll("svg [data-series]")) {
      part.style.display = hidden.has(part.dataset.series) ? "none" : "";
    }
  });
}
