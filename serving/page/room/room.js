// The reading room. page.js calls start(element) once, when Gradio has put page.html into `element`. All data come from our
// own routes under /v1.
//
// A panel is a module that exports mount(container, room): it fills its tab's container, once, at the start. `room` has
//
//   store    the state (store.js). A panel declares its own fields, with `read` and `write` where the link must hold them:
//            store.declare("head", { initial: 0, ...whole }); store.on([...], draw). Fields that all know:
//              info       answer of GET /v1/info             study, other   answers of GET /v1/studies/…; `other` is the study on
//              views      [left, right] numbers of views                    the right, null where it is the same one
//              backbones  numbers of those side by side      panes          Panes: left, then right for each backbone
//              anchor, pin  { side, backbone, x, y }         tab, shown     open tab; counts up when panes show another picture
//   http     request, json, binary (header and bytes, like GET /v1/similarity), cached
//   attempt  attempt(async () => …): busy meanwhile; an error becomes one line on the page (http.PageError: a sentence)
//   panes    in store.state.panes; a Pane (viewer.js) has side, shown {study, view, backbone, label, source}, paint(name, grid,
//            image), erase(name), mark(boxes), snapshot()
//   tabs     tabs.drawsMap(): whether the open tab draws on the views; tabs.current().id; tabs.hide(id, true)
//   help     help.explain({ name, means, not }) -> the paragraph to put beside a map; it stands in the help, too
//   go       go("test-4") opens a study (an upload, too);  compare("test-9", view) puts one on the right, compare("") takes it away
//   title, studies.js (viewName, picture, finding), header.js (chips)

import * as attention from "./attention.js";
import { all, find } from "./dom.js";
import * as browser from "./browser.js";
import * as download from "./download.js";
import * as header from "./header.js";
import { makeHelp } from "./help.js";
import * as http from "./http.js";
import { bindKeys } from "./keyboard.js";
import * as panes from "./panes.js";
import * as pca from "./pca.js";
import * as runs from "./runs.js";
import * as similar from "./similar.js";
import * as similarity from "./similarity.js";
import { bindAddress, makeStore, oneOf, text, whole, wholes } from "./store.js";
import { pairOf, sameView, title } from "./studies.js";
import { makeTabs } from "./tabs.js";
import { bindTheme } from "./theme.js";
import * as upload from "./upload.js";

// Tabs in their order. map: the tab draws on the views while it is open. `mount` of a panel goes here.
const PANELS = [
  { id: "patches", name: "Patches", mount: similarity.mount },
  { id: "attention", name: "Attention", map: true, mount: attention.mount },
  { id: "pca", name: "Colors", map: true, mount: pca.mount },
  { id: "similar", name: "Similar", mount: similar.mount },
  { id: "runs", name: "Runs", mount: runs.mount },
];

function declareState(store) {
  const number = (part) => Number(Number(part).toFixed(4));
  const fractions = (value) => (/^-?[\d.]+(:-?[\d.]+)*$/.test(value) ? value.split(":").map(Number) : undefined);
  const both = (of, names) => ({ // a value for each side, such as zooms; null is left empty
    initial: [null, null],
    write: (pair) => pair.map((one) => (one ? names.map((name) => number(one[name])).join(":") : "")).join(","),
    read: (value) => {
      const pair = value.split(",").map((part) => fractions(part));
      if (pair.length !== 2 || pair.some((one) => one && (one.length !== names.length || one.some(Number.isNaN)))) return undefined;
      return pair.map((one) => (one ? of(Object.fromEntries(names.map((name, i) => [name, one[i]]))) : null));
    },
  });
  const limited = (value, low, high) => Math.min(Math.max(value, low), high);
  store.declare("name", { initial: "", as: "study", visit: true, ...text }); // of the study; "" is the first
  store.declare("with", { initial: "", visit: true, ...text }); // of the study on the right, "" for the same
  store.declare("chosen", { initial: null, as: "views", ...wholes }); // null: a pair of planes; one: the left view
  store.declare("backbones", { initial: [0], ...wholes });
  store.declare("tab", { initial: "patches", ...oneOf(...PANELS.map(({ id }) => id)) });
  store.declare("zooms", both(({ scale, x, y }) => ({ scale: limited(scale, 1, 20), x: limited(x, 0, 1), y: limited(y, 0, 1) }), ["scale", "x", "y"]));
  store.declare("windows", both(({ width, center }) => ({ width: limited(width, 2, 510), center: limited(center, 0, 255) }), ["width", "center"]));
  store.declare("pin", {
    initial: null,
    write: ({ side, backbone, x, y }) => [side, backbone, number(x), number(y)].join(":"),
    read: (value) => {
      const parts = fractions(value);
      if (parts?.length !== 4 || ![0, 1].includes(parts[0]) || parts.some(Number.isNaN)) return undefined;
      return { side: parts[0], backbone: parts[1], x: parts[2], y: parts[3] };
    },
  });
  store.declare("list", { initial: innerWidth >= 1500, ...oneOf("true", "false"), read: (value) => value === "true" });
  for (const [name, initial] of Object.entries({ info: null, study: null, other: null, views: [0, 0], panes: [], anchor: null, shown: 0 }))
    store.declare(name, { initial });
}

export function start(element) {
  const app = find(".app", element), store = makeStore();
  declareState(store);
  const room = { app, store, http, matrix: http.cached(http.binary, 8), loadStudy: http.cached(http.json, 24) };
  room.captions = new Map(); // tab -> function that says in a sentence what its map shows
  room.title = (name) => title(name, store.state.info?.shards);
  bindErrors(room);
  room.help = makeHelp(app);
  room.theme = bindTheme(find(".theme", app));
  room.go = (name) => store.set({ name, with: "", chosen: null, pin: null, anchor: null, zooms: [null, null], windows: [null, null] });
  room.compare = (name, view = null) => {
    const { views } = store.state;
    store.set({ with: name, chosen: view === null ? [views[0]] : [views[0], view], pin: null, anchor: null, zooms: [store.state.zooms[0], null], windows: [store.state.windows[0], null] });
  };
  header.mount(find(".heading", app), find(".backbones", app), room);
  browser.mount(find(".browser", app), room);
  panes.mount(find(".panes", app), room);
  room.tabs = makeTabs(room, find(".tabs", app), find(".panels", app));
  for (const { id, name, map, mount } of PANELS) mount(room.tabs.add({ id, name, map }), room);
  upload.mount(find(".picker", app), room);
  download.mount(find(".tools", app), room);
  bindKeys(room);
  bindButtons(room);
  room.attempt(() => begin(room));
}

// attempt(): runs an action; the page is busy meanwhile, and an error becomes one line.
function bindErrors(room) {
  const box = find(".error", room.app);
  let running = 0;
  room.attempt = async (action) => {
    running++;
    room.app.setAttribute("aria-busy", "true");
    try {
      await action();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof http.PageError)) console.error(error); // our own mistake
      box.textContent = error.message;
      box.hidden = false;
    } finally {
      if (--running === 0) room.app.setAttribute("aria-busy", "false");
    }
  };
  room.calm = () => { box.hidden = true; };
}

async function begin(room) {
  const { store } = room, address = bindAddress(store);
  store.set({ info: await http.json("/v1/info") });
  store.on(["name", "with", "chosen"], () => room.attempt(() => load(room)));
  address.follow();
  room.tabs.show();
  await load(room);
}

// The study of the link, and the one on the right.
async function load(room) {
  const { store } = room, { info, name, chosen } = store.state, right = store.state.with;
  const wanted = `${name} ${right} ${chosen}`;
  room.calm();
  room.wanted = wanted;
  const [study, other] = await Promise.all([
    room.loadStudy(`/v1/studies/${encodeURIComponent(name || `${info.shards.split}-0`)}`),
    right ? room.loadStudy(`/v1/studies/${encodeURIComponent(right)}`) : null,
  ]);
  if (room.wanted !== wanted) return; // another study was chosen meanwhile
  const backbones = store.state.backbones.filter((one) => one < info.backbones.length);
  store.set({ study, other, views: viewsOf(study, other, chosen), backbones: backbones.length ? backbones : [0] });
}

function viewsOf(study, other, chosen) {
  const pair = pairOf(study.views), left = study.views[chosen?.[0]] ? chosen[0] : pair[0];
  const rights = (other ?? study).views;
  if (rights[chosen?.[1]]) return [left, chosen[1]];
  return [left, other ? sameView(rights, study.views[left]) : pair[1]];
}

function bindButtons(room) {
  const { app, store } = room;
  all(".step", app).forEach((button) => button.addEventListener("click", () => room.step(Number(button.dataset.step))));
  find(".shuffle", app).addEventListener("click", () => room.shuffle());
  find(".help-open", app).addEventListener("click", () => room.help.open());
  find(".list-open", app).addEventListener("click", () => store.set({ list: !store.state.list }));
  const showList = () => {
    app.classList.toggle("with-list", store.state.list);
    find(".list-open", app).setAttribute("aria-expanded", store.state.list);
  };
  store.on(["list"], showList);
  showList();
}
