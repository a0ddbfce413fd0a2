// The list of studies: a page at a time, filtered by findings and projection where there is a gallery; by position in the
// shards where there is none.

import { all, make } from "./dom.js";
import { makeFilter } from "./filter.js";
import { byState, finding } from "./studies.js";

const PAGE = 50;

export function mount(container, room) {
  const { store, http } = room;
  store.declare("after", { initial: -1, read: (text) => (/^\d{1,15}$/.test(text) ? Number(text) : undefined), write: String });
  const list = make("ol", { class: "studies", "aria-label": "Studies" }), count = make("p", { class: "count", "aria-live": "polite" });
  const before = make("button", { title: "Previous page", "aria-label": "Previous page", onclick: () => turn(-1) }, "‹");
  const next = make("button", { title: "Next page", "aria-label": "Next page", onclick: () => turn(1) }, "›");
  const filter = makeFilter(room, () => { earlier = []; store.set({ after: -1 }); });
  container.append(filter.element, list, make("div", { class: "pages" }, before, count, next));
  let page = { rows: [], total: 0, next: null }, earlier = [], wanted = "", loading = null;

  // The gallery whose rows are listed: that of the first backbone that has one; -1 where none has.
  const gallery = () => store.state.info.backbones.findIndex((backbone) => backbone.gallery?.level === "study");

  async function fetchPage(after, size = PAGE) {
    if (gallery() < 0) return shardPage(after, size);
    const answer = await http.json(`/v1/studies?backbone=${gallery()}&count=${size}&after=${after}&counted=false${filter.query()}`);
    return { rows: answer.studies, total: answer.total, next: answer.next };
  }

  // How many pass the filter: asked for when the rows are on the page already.
  async function countAll(query) {
    const { total } = await http.json(`/v1/studies?backbone=${gallery()}&count=1${filter.query()}`);
    if (wanted !== query) return;
    page.total = total;
    showCount();
  }

  function shardPage(after, size) {
    const { split, studies } = store.state.info.shards, first = after + 1, last = Math.min(first + size, studies);
    const rows = Array.from({ length: Math.max(0, last - first) }, (_, i) => ({ study: `${split}-${first + i}` }));
    return { rows, total: studies, next: last < studies ? last - 1 : null };
  }

  async function show() {
    if (!store.state.info) return;
    const { after } = store.state, query = (wanted = `${after}${filter.query()}`), began = performance.now();
    const loaded = await fetchPage(after);
    if (wanted !== query) return; // another page was asked for meanwhile
    page = loaded;
    list.replaceChildren(...page.rows.map(row));
    list.scrollTop = 0;
    before.disabled = after === -1;
    next.disabled = page.next === null;
    mark();
    showCount();
    performance.clearMeasures("list");
    performance.measure("list", { start: began, end: performance.now() });
    if (page.total === null) room.attempt(() => countAll(query));
  }

  function showCount() {
    const { rows, total } = page, words = (number) => number.toLocaleString("en");
    const first = earlier.length * PAGE + 1, known = store.state.after === -1 || earlier.length > 0;
    const range = known ? `${words(first)}–${words(first + rows.length - 1)}` : "";
    const of = total === null ? "" : known ? ` of ${words(total)}` : words(total);
    count.textContent = rows.length ? range + of : "No study";
  }

  function row({ study, key, projections = [], findings = null }) {
    const shown = study ?? null, parts = [make("b", {}, shown ? room.title(shown) : key.slice(0, 8))];
    if (projections.length) parts.push(make("span", { class: "projections" }, projections.join(" ")));
    const present = findings ? byState(findings).present.map(finding).join(", ") : "";
    if (findings) parts.push(make("span", { class: "present" }, present || "no findings"));
    const attributes = shown ? { "data-study": shown, onclick: () => room.go(shown) } : { disabled: true, title: "The shards here do not hold this study" };
    return make("li", {}, make("button", attributes, ...parts));
  }

  // Which row is open.
  function mark() {
    for (const button of all("button", list)) {
      const open = button.dataset.study === store.state.study?.study;
      open ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current");
      if (open) button.scrollIntoView({ block: "nearest" });
    }
  }

  async function turn(by) {
    if (by > 0 && page.next === null) return false;
    if (by < 0 && store.state.after === -1) return false;
    const { after } = store.state;
    const target = by > 0 ? page.next : earlier.pop() ?? -1;
    if (by > 0) earlier.push(after);
    store.set({ after: target });
    await loading;
    return true;
  }

  const here = () => page.rows.filter(({ study }) => study).map(({ study }) => study);

  // The next or previous study of the list, over the ends of its pages.
  room.step = async (by) => {
    const at = here().indexOf(store.state.study.study);
    if (at < 0) return here().length && room.go(here()[0]);
    if (here()[at + by]) return room.go(here()[at + by]);
    if (await turn(by)) room.go(here().at(by > 0 ? 0 : -1));
  };

  // Any study that passes the filter.
  room.shuffle = () => room.attempt(async () => {
    const { info } = store.state, number = gallery();
    const most = number < 0 ? info.shards.studies : info.backbones[number].gallery.rows;
    for (let attempt = 0; attempt < 8; attempt++) {
      let { rows } = await fetchPage(Math.floor(Math.random() * most) - 1, 1);
      if (!rows.length) ({ rows } = await fetchPage(-1, 1));
      const name = rows[0]?.study;
      if (name && name !== store.state.study.study) return room.go(name);
    }
  });

  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], buttons = all("button:enabled", list);
    if (!by) return;
    event.preventDefault();
    buttons[Math.min(Math.max(buttons.indexOf(document.activeElement) + by, 0), buttons.length - 1)].focus();
  });
  store.on(["info", "after", "present", "absent", "projection"], () => { loading = room.attempt(show); });
  store.on(["study"], mark);
}
