// Above the views: which study this is, its findings, and the backbones that look at it.

import { make } from "./dom.js";
import { finding } from "./studies.js";

export function chips(findings, shared = []) {
  const names = findings.present.map((name) => make("li", { class: shared.includes(name) ? "shared" : "" }, finding(name)));
  if (names.length) return names;
  return [make("li", { class: "none" }, findings.absent.length ? "no findings" : "findings unknown")];
}

// container: for the study; backbones: for the buttons.
export function mount(container, backbones, room) {
  const { store } = room;
  const heading = make("h1"), key = make("small"), list = make("ul", { class: "chips", "aria-label": "Findings" });
  container.append(heading, list);

  const summary = ({ label, blocks, width, patch, side }) =>
    `${label}: ${blocks} blocks of width ${width}, patches of ${patch} pixels, image side ${side}`;

  function showStudy() {
    const { study } = store.state;
    if (!study) return;
    key.textContent = study.key.slice(0, 8);
    heading.replaceChildren(room.title(study.study), key);
    list.replaceChildren(...chips(study.findings));
    document.title = `${room.title(study.study)} - vetdino`;
  }

  function showBackbones() {
    const { info, backbones: chosen } = store.state;
    if (!info) return;
    if (!backbones.childElementCount)
      backbones.append(...info.backbones.map((backbone, i) => make("button", { title: summary(backbone), onclick: () => room.toggleBackbone(i) }, backbone.label)));
    [...backbones.children].forEach((button, i) => button.setAttribute("aria-pressed", chosen.includes(i)));
  }

  // At least one stays. In the order of the buttons.
  room.toggleBackbone = (number) => {
    const { info, backbones: chosen } = store.state;
    if (number >= info.backbones.length) return;
    const next = chosen.includes(number) ? chosen.filter((one) => one !== number) : [...chosen, number].sort((a, b) => a - b);
    if (next.length) store.set({ backbones: next });
  };

  store.on(["study"], showStudy);
  store.on(["info", "backbones"], showBackbones);
}
