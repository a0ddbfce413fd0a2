// Studies of other patients whose features are most like this one's; one of them may stand on the right, to be compared.

import { make } from "./dom.js";
import { chips } from "./header.js";
import { byState, finding, pairOf, picture, viewName } from "./studies.js";

const FIRST = 8, MOST = 256;

export function mount(container, room) {
  const { store, http, help } = room;
  store.declare("gallery", { initial: 0, read: (text) => (/^\d{1,2}$/.test(text) ? Number(text) : undefined), write: String });
  store.declare("only", { initial: "", read: (text) => text.slice(0, 96), write: (text) => text });
  const choices = make("div", { class: "choices" }), cards = make("div", { class: "cards" });
  const more = make("button", { class: "more", hidden: true, onclick: () => { count = Math.min(2 * count, MOST); ask(); } }, "More");
  const note = make("p", { class: "explain" });
  let count = FIRST, turn = 0;
  container.append(
    help.explain({
      name: "Similar studies",
      means: "The cosine says how close the backbone's features of two whole studies are; 1 is the closest.",
      not: "It is not a diagnosis: a similar study may differ in what matters.",
    }),
    note, choices, cards, more,
  );

  const withGallery = () => store.state.info.backbones.flatMap(({ gallery }, number) => (gallery?.level === "study" ? [number] : []));

  // Which backbone's gallery is searched: the one chosen, or the first that has one.
  const backbone = () => (withGallery().includes(store.state.gallery) ? store.state.gallery : withGallery()[0]);

  // The finding that all must have; "" for any, and where this gallery does not know it.
  const finds = () => (store.state.info.backbones[backbone()].gallery.findings.includes(store.state.only) ? store.state.only : "");

  function showChoices() {
    const { info } = store.state, numbers = withGallery(), only = finds();
    const option = (value, name, chosen) => make("option", { value, selected: chosen }, name);
    const select = (label, field, options, read) => make("label", {}, `${label} `, make("select", { onchange: (event) => { count = FIRST; store.set({ [field]: read(event.target.value) }); } }, ...options));
    const findings = info.backbones[backbone()].gallery.findings;
    choices.replaceChildren(...[
      numbers.length > 1 ? select("By", "gallery", numbers.map((one) => option(one, info.backbones[one].label, one === backbone())), Number) : null,
      findings.length ? select("With", "only", [option("", "any finding", !only), ...findings.map((name) => option(name, finding(name), name === only))], String) : null,
    ].filter(Boolean));
  }

  function card(match) {
    const { study, other } = store.state, name = room.title(match.study), isCompared = other?.study === match.study;
    const thumbs = [...new Set(pairOf(match.views))].map((view) =>
      make("img", { src: picture(match.study, view, 384), alt: `${name}, ${viewName(match.views[view])}`, loading: "lazy" }));
    const compare = () => room.compare(isCompared ? "" : match.study);
    const facts = make("div", { class: "card-facts" },
      make("div", { class: "row" }, make("b", {}, name), make("span", { class: "cosine", title: "Cosine of the two studies' features" }, `cosine ${match.score.toFixed(3)}`)),
      make("ul", { class: "chips", "aria-label": "Findings" }, ...chips(byState(match.findings), study.findings.present)),
      make("div", { class: "row" },
        make("button", { class: "compare", "aria-pressed": isCompared, onclick: compare }, isCompared ? "Compared" : "Compare"),
        make("button", { class: "open", onclick: () => room.go(match.study) }, "Open")));
    const show = make("button", { class: "thumbs", tabindex: -1, "aria-hidden": "true", title: `Compare patches with ${name}`, onclick: compare }, ...thumbs);
    return make("article", { class: `card${isCompared ? " compared" : ""}`, "data-study": match.study, "aria-label": name }, show, facts);
  }

  async function load() {
    const { study } = store.state, only = finds(), mine = ++turn;
    container.setAttribute("aria-busy", "true");
    const query = new URLSearchParams({ backbone: backbone(), k: count, only_shown: true, ...(only ? { present: only } : {}) });
    const { matches } = await http.json(`/v1/studies/${study.study}/neighbours?${query}`);
    if (mine !== turn) return; // another study was chosen meanwhile
    container.setAttribute("aria-busy", "false");
    shown = matches;
    container.dataset.drawn = `${study.study} ${backbone()} ${only} ${count}`;
    showCards();
  }

  let shown = [];
  function showCards() {
    const focused = document.activeElement?.closest?.(".card")?.dataset.study, which = document.activeElement?.classList[0];
    const made = shown.map(card);
    cards.replaceChildren(...(made.length ? made : [make("p", {}, finds() ? "No study of another patient has this finding." : "There is no study of another patient.")]));
    more.hidden = shown.length < count || count >= MOST;
    if (focused) made.find((one) => one.dataset.study === focused)?.querySelector(`.${which}`)?.focus();
  }

  const isOpen = () => room.tabs.current().id === "similar" && store.state.study !== null && withGallery().length > 0;

  function ask() {
    turn++;
    if (!isOpen()) return;
    note.textContent = store.state.study.study.startsWith("upload-")
      ? "Whose study was uploaded is not known: one of the same patient may be among these."
      : "Other studies of the same patient are left out.";
    showChoices();
    room.attempt(load);
  }

  store.on(["info"], () => room.tabs.hide("similar", withGallery().length === 0));
  store.on(["study"], () => { count = FIRST; });
  store.on(["study", "tab", "gallery", "only"], ask);
  store.on(["other"], () => isOpen() && showCards());
}
