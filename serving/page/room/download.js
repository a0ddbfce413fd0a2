// The views as they are seen, with a caption, as one picture (PNG); drawn here, nothing is sent.

import { find, make } from "./dom.js";
import { viewName } from "./studies.js";

const PAD = 16, LINE = 20; // pixels at the smallest font

export function mount(container, room) {
  const { store } = room;
  container.prepend(make("button", { class: "save", title: "Save the picture with its caption (S)", "aria-label": "Save the picture", onclick: save }, "⤓"));
  room.help.addKeys(["S", "save the picture with its caption"]);
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key.toLowerCase() !== "s") return;
    if (event.target.closest?.("select, input, textarea, dialog") || find("dialog[open]", room.app)) return;
    event.preventDefault();
    save();
  });

  // What is on the screen, in words.
  function captionLines() {
    const { study, other, info, backbones, pin } = store.state;
    const names = [room.title(study.study), other ? room.title(other.study) : null].filter(Boolean).join(" and ");
    const marked = store.state.panes.some(({ element }) => element.dataset.anchor);
    const map = room.captions.get(room.tabs.current().id)?.() ?? (marked ? "Similar patches: the red patch and, numbered, the five most similar ones; the brighter, the more similar." : "");
    const gray = [0, 1].map((side) => store.state.windows[side]).map((one, side) => (one ? `${side ? "right" : "left"} view: window ${Math.round(one.width)}, level ${Math.round(one.center)}` : null));
    const models = backbones.map((number) => `${info.backbones[number].label} (${info.backbones[number].digest.slice(0, 12)})`);
    return [
      `${names}${study.findings.present.length ? `: ${study.findings.present.map((name) => name.replaceAll("_", " ")).join(", ")}` : ""}`,
      `${map}${pin && map ? " Pinned." : ""}`, `Backbone: ${models.join("; ")}`, gray.filter(Boolean).join("; "), `vetdino ${location.origin}/${store.link()}`,
    ].filter(Boolean);
  }

  // The views side by side, each with its name and scale, and the caption below.
  function drawn() {
    const { panes } = store.state, unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 14, ratio = unit * (window.devicePixelRatio || 1), shots = panes.map((pane) => pane.snapshot());
    const widths = shots.map((shot) => shot.width / ratio), width = widths.reduce((sum, one) => sum + one + PAD, PAD);
    const height = Math.max(...shots.map((shot) => shot.height / ratio)), measure = make("canvas").getContext("2d");
    measure.font = font(13);
    const lines = captionLines().flatMap((line) => wrapped(measure, line, width - 2 * PAD));
    const head = store.state.backbones.length > 1 ? LINE : 0;
    const canvas = make("canvas", { width: Math.round(width * ratio), height: Math.round((3 * PAD + 2 * LINE + head + height + LINE * lines.length) * ratio) });
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.fillStyle = "#0a0c0f";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    let left = PAD;
    shots.forEach((shot, i) => {
      context.drawImage(shot, left, PAD + LINE + head, widths[i], shot.height / ratio);
      put(context, fitted(context, panes[i].shown.label, widths[i], "700 "), left, PAD + 13, "700 ", "#e7ebef");
      if (head) put(context, fitted(context, store.state.info.backbones[panes[i].shown.backbone].label, widths[i]), left, PAD + LINE + 13, "", "#9aa6b2");
      put(context, scaleOf(panes[i]), left, PAD + 2 * LINE + head + height - 5, "", "#9aa6b2");
      left += widths[i] + PAD;
    });
    lines.forEach((line, i) => put(context, line, PAD, 2 * PAD + 2 * LINE + head + height + LINE * (i + 0.65), i ? "" : "700 ", i ? "#9aa6b2" : "#e7ebef"));
    return canvas;
  }

  const font = (size, weight = "") => `${weight}${size}px "IBM Plex Sans", system-ui, sans-serif`;
  function put(context, text, x, y, weight, color) {
    context.font = font(13, weight);
    context.fillStyle = color;
    context.fillText(text, x, y);
  }

  // The text, cut at its end where it is too wide.
  function fitted(context, text, width, weight = "") {
    context.font = font(13, weight);
    let end = text.length;
    while (end > 1 && context.measureText(text.slice(0, end) + (end < text.length ? "…" : "")).width > width) end--;
    return end < text.length ? `${text.slice(0, end)}…` : text;
  }

  // The cosines that the colors stand for, where similar patches are shown.
  const scaleOf = (pane) => (pane.scale && pane.maps.querySelector('[data-map="similar"]') ? `cosine, dark to bright: ${pane.scale.low.textContent} to ${pane.scale.high.textContent}` : "");

  function wrapped(context, text, width) {
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
      if (lines.at(-1) && context.measureText(longer).width > width) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    return lines;
  }

  function fileName() {
    const { study, other, views } = store.state, right = other ?? study;
    const name = (one) => (one.study.startsWith("upload-") ? "upload" : one.study);
    const parts = [name(study), viewName(study.views[views[0]]), other ? name(other) : null, viewName(right.views[views[1]]), room.tabs.current().id];
    return `${parts.filter(Boolean).join("-").replace(/[^\w-]+/g, "-")}.png`;
  }

  function save() {
    if (!store.state.study || !store.state.panes.length) return;
    const canvas = drawn(), name = fileName();
    canvas.toBlob((png) => {
      const address = URL.createObjectURL(png);
      make("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
    }, "image/png");
  }
}
