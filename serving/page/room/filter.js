// Which studies are listed: findings that are present or absent, and a projection; or one study by its number.

import { make } from "./dom.js";
import { finding } from "./studies.js";

const names = { read: (text) => text.split("|").filter(Boolean).slice(0, 16), write: (list) => list.join("|") };

// changed: called before another filter takes effect.
export function makeFilter(room, changed) {
  const { store } = room;
  store.declare("present", { initial: [], ...names });
  store.declare("absent", { initial: [], ...names });
  store.declare("projection", { initial: "", read: (text) => text.slice(0, 16), write: String });
  const findings = make("select", { "aria-label": "Filter by a finding", onchange: add });
  const projections = make("select", { "aria-label": "Filter by a projection", onchange: () => set({ projection: projections.value }) });
  const chosen = make("div", { class: "chosen" });
  const number = make("input", { type: "text", inputmode: "numeric", placeholder: "Study number", "aria-label": "Open the study of this number", onchange: open });
  const element = make("form", { class: "filter", onsubmit: (event) => { event.preventDefault(); open(); } }, number, findings, projections, chosen);

  const set = (change) => { changed(); store.set(change); };

  function add() {
    const [kind, name] = findings.value.split(":");
    findings.value = "";
    const { present, absent } = store.state, without = (list) => list.filter((one) => one !== name);
    const change = { present: without(present), absent: without(absent) };
    change[kind].push(name);
    set(change);
  }

  function open() {
    const { split, studies } = store.state.info.shards, at = Number(number.value.replaceAll(/\D/g, ""));
    if (at >= 1 && at <= studies) room.go(`${split}-${at - 1}`);
    number.value = "";
  }

  function show() {
    const { info, present, absent, projection } = store.state, gallery = info?.backbones.find((one) => one.gallery)?.gallery;
    if (!info) return;
    findings.hidden = !gallery?.findings.length;
    projections.hidden = !gallery?.projections.length;
    const options = (kind) => gallery.findings.map((name) => make("option", { value: `${kind}:${name}` }, finding(name)));
    if (gallery && !findings.options.length) {
      const groups = [["With", "present"], ["Without", "absent"]].map(([label, kind]) => make("optgroup", { label }, ...options(kind)));
      findings.append(make("option", { value: "" }, "Finding…"), ...groups);
      projections.append(make("option", { value: "" }, "Any view"), ...gallery.projections.map((name) => make("option", { value: name }, name)));
    }
    projections.value = projection;
    const chip = (kind, words) => (name) => make("button", { type: "button", title: "Remove", onclick: () => set({ [kind]: store.state[kind].filter((one) => one !== name) }) }, `${words}${finding(name)} ×`);
    chosen.replaceChildren(...present.map(chip("present", "")), ...absent.map(chip("absent", "no ")));
  }

  // As GET /v1/studies takes it.
  function query() {
    const { present, absent, projection } = store.state, parts = new URLSearchParams();
    present.forEach((name) => parts.append("present", name));
    absent.forEach((name) => parts.append("absent", name));
    if (projection) parts.append("projection", projection);
    return parts.size ? `&${parts}` : "";
  }

  store.on(["info", "present", "absent", "projection"], show);
  return { element, query };
}
