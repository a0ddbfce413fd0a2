// Runs once, when Gradio has put page.html into `element`. All data come from our own routes under /v1.
// A view is named like "test-12/0". Hovering needs no request: one uint8 matrix holds the cosines of all patches.

const find = (what, inside = element) => inside.querySelector(what);
const all = (what, inside = element) => [...inside.querySelectorAll(what)];

const app = find(".app");
const panes = all(".pane");
const MATCHES = 8;
const state = { info: null, studies: [], study: null, other: null, views: [0, 0], backbone: 0, matrix: null, pinned: null };

// ---------------------------------------------------------------- small tools

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

async function request(path) {
  let response;
  try {
    response = await fetch(path);
  } catch {
    throw new Error("The server does not answer. Is `vetdino app` still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Error(body.error || `The server answered ${response.status}.`);
}

const json = async (path) => (await request(path)).json();

async function attempt(action) {
  const box = find(".error");
  try {
    box.hidden = true;
    await action();
  } catch (error) {
    box.textContent = error.message;
    box.hidden = false;
  } finally {
    app.setAttribute("aria-busy", "false");
  }
}

function title(name) {
  const [split, position] = name.split("-");
  return `Study ${Number(position) + 1}${split === state.info.shards.split ? "" : ` of ${split}`}`;
}

const FRONTAL = ["VD", "DV", "AP", "PA"];

function pairOf(views) {
  // The first view and the first of the other plane; the second view if there is none.
  const frontal = ({ projection }) => FRONTAL.includes(projection);
  const otherPlane = views.findIndex((view) => frontal(view) !== frontal(views[0]));
  return [0, otherPlane > 0 ? otherPlane : Math.min(1, views.length - 1)];
}

const picture = (study, view, side) => `/v1/studies/${study}/${view}.jpg?side=${side}`;

// ---------------------------------------------------------------- colors of a cosine

const STOPS = [[16, 84, 110], [24, 170, 160], [70, 235, 175], [210, 255, 140]];

function color(t) {
  const at = t * (STOPS.length - 1), i = Math.min(Math.floor(at), STOPS.length - 2), f = at - i;
  const [r, g, b] = STOPS[i].map((low, c) => low + (STOPS[i + 1][c] - low) * f);
  const opacity = 165 * t ** 1.5; // the anatomy stays visible under the most similar patch
  return (Math.round(opacity) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
}
const PALETTE = Uint32Array.from({ length: 256 }, (_, i) => color(i / 255));

// ---------------------------------------------------------------- hovering: a patch and the similar ones

function sideStudy(side) {
  return side === 1 && state.other ? state.other : state.study;
}

async function loadMatrix() {
  const [a, b] = [0, 1].map((side) => `${sideStudy(side).study}/${state.views[side]}`);
  const wanted = `a=${a}&b=${b}&backbone=${state.backbone}`;
  state.matrix = null;
  state.wanted = wanted;
  const bytes = new Uint8Array(await (await request(`/v1/similarity?${wanted}`)).arrayBuffer());
  if (state.wanted !== wanted) return; // another choice was made meanwhile
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let start = 0;
  for (const view of header.views) {
    view.start = start;
    view.columns = view.side / view.patch;
    view.inView = Uint32Array.from(view.inside.flatMap((inside, patch) => (inside ? [patch] : [])));
    start += view.boxes.length;
  }
  header.views.forEach((view, side) => placeOverlay(panes[side], view));
  state.matrix = { ...header, total: start, cosines: bytes.subarray(4 + length) };
}

function placeOverlay(pane, view) {
  // One canvas pixel is one patch; the browser scales it smoothly to the square over the view.
  const canvas = find("canvas", pane), [top, left, rows, columns] = view.letterbox;
  canvas.width = canvas.height = view.columns;
  canvas.style.width = `${(100 * view.side) / columns}%`;
  canvas.style.height = `${(100 * view.side) / rows}%`;
  canvas.style.left = `${(-100 * left) / columns}%`;
  canvas.style.top = `${(-100 * top) / rows}%`;
  view.pixels = new ImageData(view.columns, view.columns);
  view.cells = new Uint32Array(view.pixels.data.buffer);
  find("svg", pane).setAttribute("viewBox", `0 0 ${view.width} ${view.height}`);
}

function patchAt(view, x, y) {
  const [top, left, rows, columns] = view.letterbox, last = view.columns - 1;
  const row = Math.floor((top + (y * rows) / view.height) / view.patch);
  const column = Math.floor((left + (x * columns) / view.width) / view.patch);
  return Math.min(Math.max(row, 0), last) * view.columns + Math.min(Math.max(column, 0), last);
}

function best(scores, inView, count, without) {
  const order = [];
  for (const patch of inView) {
    if (patch === without) continue;
    if (order.length === count && scores[patch] <= scores[order[count - 1]]) continue;
    let at = order.length;
    while (at > 0 && scores[order[at - 1]] < scores[patch]) at--;
    order.splice(at, 0, patch);
    if (order.length > count) order.pop();
  }
  return order;
}

function spread(scores, inView, without) {
  // Colors start at the view's 70th percentile: what most patches have in common stays dark.
  const counts = new Uint32Array(256);
  for (const patch of inView) if (patch !== without) counts[scores[patch]]++;
  let seen = 0, low = 0, high = 255;
  while (seen + counts[low] < 0.7 * inView.length) seen += counts[low++];
  while (high > low && counts[high] === 0) high--;
  return [low, high];
}

function highlight(anchorSide, patch) {
  const matrix = state.matrix;
  if (!matrix) return;
  performance.clearMeasures("hover");
  const began = performance.now();
  const index = matrix.views[anchorSide].start + patch;
  const row = matrix.cosines.subarray(index * matrix.total, (index + 1) * matrix.total);
  matrix.views.forEach((view, side) => {
    const isAnchor = side === anchorSide, scores = row.subarray(view.start, view.start + view.boxes.length);
    const without = isAnchor ? patch : -1;
    const [low, high] = spread(scores, view.inView, without), scale = 255 / Math.max(high - low, 6);
    for (let i = 0; i < scores.length; i++) {
      const t = (scores[i] - low) * scale;
      view.cells[i] = t <= 0 ? 0 : PALETTE[t > 255 ? 255 : t | 0];
    }
    if (isAnchor) view.cells[patch] = 0;
    find("canvas", panes[side]).getContext("2d").putImageData(view.pixels, 0, 0);
    const top = best(scores, view.inView, 5, without);
    drawBoxes(panes[side], view, isAnchor ? patch : null, isAnchor ? [] : top);
    const cosine = (value) => (matrix.low + (value / 255) * (matrix.high - matrix.low)).toFixed(2);
    find(".low", panes[side]).textContent = cosine(low);
    find(".high", panes[side]).textContent = cosine(high);
    panes[side].dataset.anchor = isAnchor ? patch : "";
    panes[side].dataset.top = isAnchor ? "" : top.join(" ");
    panes[side].classList.add("active");
  });
  performance.measure("hover", { start: began, end: performance.now() });
}

function drawBoxes(pane, view, anchor, top) {
  const svg = find("svg", pane), NS = "http://www.w3.org/2000/svg";
  const size = view.width / find(".film", pane).clientWidth;
  const nodes = [];
  const box = (patch, attributes) => {
    const [x0, y0, x1, y1] = view.boxes[patch], node = document.createElementNS(NS, "rect");
    for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0, ...attributes }))
      node.setAttribute(name, value);
    nodes.push(node);
    return [x0, y0, x1, y1];
  };
  top.toReversed().forEach((patch, i) => {
    const rank = top.length - i, [x0, y0, x1] = box(patch, { opacity: 1.12 - 0.12 * rank });
    const label = document.createElementNS(NS, "text");
    label.textContent = rank;
    label.setAttribute("x", x1 - 4 * size);
    label.setAttribute("y", y0 + 14 * size);
    label.setAttribute("font-size", 12.5 * size);
    nodes.push(label);
  });
  if (anchor !== null) box(anchor, { class: "anchor" });
  svg.replaceChildren(...nodes);
}

function clear() {
  state.pinned = null;
  for (const pane of panes) {
    pane.classList.remove("active");
    const canvas = find("canvas", pane);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    find("svg", pane).replaceChildren();
    pane.dataset.anchor = pane.dataset.top = "";
  }
  hint();
}

function hint() {
  find(".hint").textContent = state.pinned
    ? "Pinned. Click another patch to move the pin; click it again or press Esc to remove it."
    : "Point at a patch: similar patches light up in both views; the five most similar in the other view are framed. Click to pin.";
}

function patchUnder(side, event) {
  const view = state.matrix?.views[side];
  if (!view) return null;
  const area = find(".film", panes[side]).getBoundingClientRect();
  const x = ((event.clientX - area.left) / area.width) * view.width;
  const y = ((event.clientY - area.top) / area.height) * view.height;
  return patchAt(view, x, y);
}

panes.forEach((pane, side) => {
  const film = find(".film", pane);
  film.addEventListener("pointermove", (event) => {
    const patch = patchUnder(side, event);
    if (patch !== null && !state.pinned && pane.dataset.anchor !== String(patch)) highlight(side, patch);
  });
  film.addEventListener("pointerleave", () => state.pinned || clear());
  film.addEventListener("click", (event) => {
    const patch = patchUnder(side, event);
    if (patch === null) return;
    const unpin = state.pinned?.side === side && state.pinned.patch === patch;
    state.pinned = unpin ? null : { side, patch };
    highlight(side, patch);
    hint();
  });
});

// ---------------------------------------------------------------- the parts of the page

function chips(findings, shared = []) {
  const names = findings.present.map((name) => {
    const chip = make("li", shared.includes(name) ? { class: "shared" } : {});
    chip.textContent = name.replaceAll("_", " ");
    return chip;
  });
  if (names.length) return names;
  return [make("li", { class: "none" }, findings.absent.length ? "no findings" : "findings unknown")];
}

function byState(findings) {
  const names = Object.keys(findings);
  return { present: names.filter((name) => findings[name]), absent: names.filter((name) => findings[name] === false) };
}

function showPane(side) {
  const pane = panes[side], study = sideStudy(side), nav = find(".views", pane);
  const chosen = state.views[side];
  const tabs = study.views.map((view, i) =>
    make("button", { "aria-pressed": i === chosen, onclick: () => chooseView(side, i) }, nameOf(view)),
  );
  const other = [];
  if (side === 1 && state.other) {
    const back = make("button", { onclick: () => compare(null) }, "Back");
    other.push(make("span", { class: "other-study" }, title(study.study), back));
  }
  nav.replaceChildren(...tabs, ...other);
  const image = find("img", pane);
  image.onload = () => find(".film", pane).style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  image.src = picture(study.study, chosen, 1024);
  image.alt = `${title(study.study)}, ${nameOf(study.views[chosen])}`;
}

function nameOf(view) {
  const name = view.projection === "UNKNOWN" ? view.modality || "View" : view.projection;
  return view.laterality ? `${name} ${view.laterality}` : name;
}

function showAttention(side) {
  const { heads } = state.info.backbones[state.backbone];
  const study = sideStudy(side), view = state.views[side];
  const kinds = ["mean", "all", ...Array(heads).keys()];
  const names = { mean: "mean of heads", all: "all heads, one color each" };
  const tiles = kinds.map((kind) => {
    const name = names[kind] ?? `head ${kind + 1}`;
    const address = `/v1/studies/${study.study}/${view}/attention/${kind}.jpg?backbone=${state.backbone}`;
    const frame = make("div", {}, make("img", { src: address, alt: `Attention, ${name}`, loading: "lazy" }));
    const caption = kind === "mean" ? `${nameOf(study.views[view])}, ${name}` : name;
    return make("figure", { class: "tile" }, frame, make("figcaption", {}, caption));
  });
  const strip = find(`.strip[data-side="${side}"]`);
  strip.style.setProperty("--columns", Math.min(kinds.length, 7));
  strip.replaceChildren(...tiles);
}

async function showSimilar() {
  const study = state.study.study, backbone = state.backbone;
  const address = `/v1/studies/${study}/neighbours?backbone=${backbone}&k=${MATCHES}&only_shown=true`;
  const { matches } = await json(address);
  if (study !== state.study.study || backbone !== state.backbone) return;
  const cards = matches.map((match) => {
    const thumbs = [...new Set(pairOf(match.views))].map((view) => make("img", { src: picture(match.study, view, 256), alt: "", loading: "lazy" }));
    const open = make("button", { class: "open", title: `Open ${title(match.study)}`, onclick: () => go(match.study) }, ...thumbs);
    const against = make("button", { class: "compare", onclick: () => compare(match) }, "Compare");
    const row = make("div", { class: "row" }, make("b", {}, title(match.study)), make("span", {}, `cosine ${match.score.toFixed(3)}`), against);
    const list = make("ul", { class: "chips" }, ...chips(byState(match.findings), state.study.findings.present));
    return make("article", { class: "card", "data-study": match.study }, open, make("div", { class: "facts" }, row, list));
  });
  find(".cards").replaceChildren(...(cards.length ? cards : ["There is no study of another patient."]));
}

function listStudy(name) {
  const list = find(".studies");
  if (![...list.options].some((option) => option.value === name)) list.append(make("option", { value: name }, title(name)));
  list.value = name;
}

async function show() {
  clear();
  find(".patient h1").replaceChildren(title(state.study.study), make("small", {}, state.study.key.slice(0, 8)));
  find(".patient .chips").replaceChildren(...chips(state.study.findings));
  listStudy(state.study.study);
  const backbone = state.info.backbones[state.backbone];
  find(".backbone-facts").textContent = summary(backbone);
  all(".backbones button").forEach((button, i) => button.setAttribute("aria-checked", i === state.backbone));
  [0, 1].forEach(showPane);
  await loadMatrix();
  [0, 1].forEach(showAttention);
  await showSimilar();
}

// ---------------------------------------------------------------- choices

const summary = ({ blocks, width, patch, side }) =>
  `${blocks} blocks of width ${width}, patches of ${patch} pixels, image side ${side}`;

const go = (study) => { location.hash = study; };

async function open(study) {
  app.setAttribute("aria-busy", "true");
  const loaded = await json(`/v1/studies/${study}`);
  if (study !== wantedStudy()) return; // another study was chosen meanwhile
  state.study = loaded;
  state.other = null;
  state.views = pairOf(state.study.views);
  window.scrollTo({ top: 0, behavior: "smooth" });
  await show();
}

async function chooseView(side, view) {
  state.views[side] = view;
  clear();
  showPane(side);
  await attempt(async () => { await loadMatrix(); showAttention(side); });
}

async function compare(match) {
  state.other = match;
  state.views[1] = match ? sameView(match) : pairOf(state.study.views)[1];
  window.scrollTo({ top: 0, behavior: "smooth" });
  await chooseView(1, state.views[1]);
}

function sameView(match) {
  const wanted = state.study.views[state.views[0]].projection;
  return Math.max(0, match.views.findIndex((view) => view.projection === wanted));
}

function step(by) {
  const { studies } = state, at = studies.indexOf(state.study.study);
  go(studies[(at + by + studies.length) % studies.length]);
}

function shuffle() {
  const { studies } = state;
  const others = studies.filter((name) => name !== state.study.study);
  if (others.length) go(others[Math.floor(Math.random() * others.length)]);
}

const wantedStudy = () => decodeURIComponent(location.hash.slice(1)) || state.studies[0];

async function begin() {
  state.info = await json("/v1/info");
  const { split, studies } = state.info.shards;
  state.studies = Array.from({ length: studies }, (_, position) => `${split}-${position}`);
  find(".studies").replaceChildren(
    ...state.studies.map((name) => make("option", { value: name }, title(name))),
  );
  find(".backbones").replaceChildren(
    ...state.info.backbones.map((backbone, i) =>
      make("button", { role: "radio", title: summary(backbone), onclick: () => attempt(() => { state.backbone = i; return show(); }) }, backbone.label),
    ),
  );
  await open(wantedStudy());
}

find(".studies").addEventListener("change", (event) => go(event.target.value));
find(".shuffle").addEventListener("click", shuffle);
all(".step").forEach((button) => button.addEventListener("click", () => step(Number(button.dataset.step))));
window.addEventListener("hashchange", () => attempt(() => open(wantedStudy())));
window.addEventListener("keydown", (event) => {
  if (!state.study || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select, input")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
  if (event.key.toLowerCase() === "r") shuffle();
  if (event.key === "Escape") clear();
});
attempt(begin);
