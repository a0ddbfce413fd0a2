// The tabs beside the views. A tab whose `map` is true draws on the views while it is open; the others leave them to
// similar patches.

import { make } from "./dom.js";

export function makeTabs(room, bar, body) {
  const { store } = room, tabs = [];
  bar.setAttribute("role", "tablist");

  // The empty container of a new tab.
  function add({ id, name, map = false }) {
    const container = make("section", { class: `panel ${id}`, id: `panel-${id}`, role: "tabpanel", "aria-labelledby": `tab-${id}`, hidden: true });
    const button = make("button", { id: `tab-${id}`, role: "tab", "aria-controls": `panel-${id}`, onclick: () => store.set({ tab: id }) }, name);
    tabs.push({ id, map, container, button });
    bar.append(button);
    body.append(container);
    return container;
  }

  function show() {
    const open = current();
    for (const tab of tabs) {
      tab.container.hidden = tab !== open;
      tab.button.setAttribute("aria-selected", tab === open);
      tab.button.tabIndex = tab === open ? 0 : -1;
    }
  }

  const shown = () => tabs.filter(({ button }) => !button.hidden);
  const current = () => shown().find(({ id }) => id === store.state.tab) ?? tabs[0];

  // A tab that has nothing to show here, such as similar studies without a gallery.
  function hide(id, hidden) {
    tabs.find((tab) => tab.id === id).button.hidden = hidden;
    show();
  }

  bar.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    const list = shown(), next = list[(list.indexOf(current()) + by + list.length) % list.length];
    store.set({ tab: next.id });
    next.button.focus();
  });
  store.on(["tab"], show);
  return { add, hide, show, current, drawsMap: () => current().map };
}
