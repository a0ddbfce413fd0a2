// The panes: the left view once, the right one for each backbone that is chosen; and the views that each may show.

import { make } from "./dom.js";
import { bindGestures } from "./gestures.js";
import { bestColumns } from "./layout.js";
import { picture, viewName } from "./studies.js";
import { Pane } from "./viewer.js";

const SIDE = 2048; // pixels of the longer side; a shard's view is seldom larger

export function mount(container, room) {
  const { store } = room;

  // As many panes as needed; those that stay keep their pictures.
  function build() {
    const { backbones, panes } = store.state, count = 1 + backbones.length;
    if (panes.length === count) return show();
    panes.slice(count).forEach((pane) => pane.remove());
    const kept = panes.slice(0, count);
    while (kept.length < count) {
      const pane = new Pane(Math.min(kept.length, 1));
      bindGestures(pane, room);
      container.append(pane.element);
      kept.push(pane);
    }
    store.set({ panes: kept });
    show();
  }

  function show() {
    const { study, other, views, backbones, panes } = store.state;
    if (!study) return;
    panes.forEach((pane, i) => {
      const own = pane.side === 1 && other ? other : study, view = views[pane.side];
      const label = `${room.title(own.study)}, ${viewName(own.views[view])}`;
      const shown = { study: own.study, view, backbone: backbones[Math.max(0, i - 1)], label, source: picture(own.study, view, SIDE) };
      caption(pane, own, view, shown.backbone);
      room.attempt(async () => {
        if (!(await pane.show(shown))) return;
        arrange();
        store.set({ shown: store.state.shown + 1 });
      });
    });
    place();
  }

  function arrange() {
    const { panes } = store.state, { clientWidth, clientHeight } = container;
    if (!panes.length || !clientWidth) return;
    container.style.setProperty("--columns", bestColumns(panes.map((pane) => pane.ratio), clientWidth, clientHeight, panes[0].unit));
    panes.forEach((pane) => pane.layout()); // a stage that shrinks and grows within a frame is not seen by its observer
  }

  function caption(pane, own, view, backbone) {
    const choose = (number) => {
      const { views, zooms, windows } = store.state, side = pane.side;
      store.set({ chosen: views.with(side, number), pin: null, anchor: null, zooms: zooms.with(side, null), windows: windows.with(side, null) });
    };
    const tabs = own.views.map((one, i) => make("button", { "aria-pressed": i === view, onclick: () => choose(i) }, viewName(one)));
    const { backbones, other, info } = store.state, seenBy = pane.side && backbones.length > 1 ? info.backbones[backbone].label : "";
    const name = `${pane.side ? "Right view" : "Left view"}${seenBy && `, ${seenBy}`}`;
    const parts = [make("div", { class: "views", role: "group", "aria-label": name }, ...tabs)];
    if (pane.side === 1 && other) {
      const back = make("button", { class: "plain", onclick: () => room.compare("") }, "Back");
      parts.push(make("span", { class: "other-study" }, room.title(other.study), back));
    }
    if (seenBy) parts.push(make("span", { class: "backbone", title: seenBy }, seenBy));
    pane.caption.replaceChildren(...parts);
  }

  function place() {
    const { zooms, windows, panes } = store.state;
    for (const pane of panes) [pane.zoom, pane.window] = [zooms[pane.side], windows[pane.side]];
  }

  new ResizeObserver(arrange).observe(container);
  store.on(["study", "other", "views", "backbones"], build);
  store.on(["zooms", "windows"], place);
}
