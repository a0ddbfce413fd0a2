// Runs once, when Gradio has put page.html into `element`. Everything comes from our own routes under /v1.
// A view is called like "test-12/0". One matrix of patch cosines, uint8, answers every hover without the server.

const find = (what, inside = element) => inside.querySelector(what);
const all = (what, inside = element) => [...inside.querySelectorAll(what)];

const room = find(".room");
const panes = all(".pane");
const state = { info: null, study: null, other: null, views: [0, 0], backbone: 0, matrix: null, pinned: null };

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

async function ask(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    throw new Error("The server does not answer. Is `vetdino serve` still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Error(told.error || `The server answered ${answer.status}.`);
}

const json = async (path) => (await ask(path)).json();

async function attempt(work) {
  const trouble = find(".trouble");
  try {
    trouble.hidden = true;
    await work();
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
  } finally {
    room.setAttribute("aria-busy", "false");
  }
}

function title(name) {
  const [split, position] = name.split("-");
  return `Study ${Number(position) + 1}${split === state.info.split ? "" : ` of ${split}`}`;
}

const FRONTAL = ["VD", "DV", "AP", "PA"];

function pairOf(views) {
  // The first view and the first that crosses it; the second one where none does.
  const frontal = ({ projection }) => FRONTAL.includes(projection);
  const crossing = views.findIndex((view) => frontal(view) !== frontal(views[0]));
  return [0, crossing > 0 ? crossing : Math.min(1, views.length - 1)];
}

const picture = (study, view, side) => `/v1/studies/${study}/${view}.jpg?side=${side}`;

// ---------------------------------------------------------------- colours of a cosine

const STOPS = [[16, 84, 110], [24, 170, 160], [70, 235, 175], [210, 255, 140]];

function colour(t) {
  const at = t * (STOPS.length - 1), i = Math.min(Math.floor(at), STOPS.length - 2), f = at - i;
  const [r, g, b] = STOPS[i].map((low, c) => low + (STOPS[i + 1][c] - low) * f);
  const opacity = 165 * t ** 1.5; // the anatomy stays visible under the strongest answer
  return (Math.round(opacity) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
}
const PALETTE = Uint32Array.from({ length: 256 }, (_, i) => colour(i / 255));

// ---------------------------------------------------------------- hover: a patch and what answers it

function sideStudy(side) {
  return side === 1 && state.other ? state.other : state.study;
}

async function loadMatrix() {
  const [a, b] = [0, 1].map((side) => `${sideStudy(side).study}/${state.views[side]}`);
  const wanted = `a=${a}&b=${b}&backbone=${state.backbone}`;
  state.matrix = null;
  state.wanted = wanted;
  const bytes = new Uint8Array(await (await ask(`/v1/similarity?${wanted}`)).arrayBuffer());
  if (state.wanted !== wanted) return; // somebody chose something else meanwhile
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let start = 0;
  for (const view of told.views) {
    view.start = start;
    view.columns = view.side / view.patch;
    view.shown = Uint32Array.from(view.inside.flatMap((inside, patch) => (inside ? [patch] : [])));
    start += view.boxes.length;
  }
  told.views.forEach((view, side) => layGlow(panes[side], view));
  state.matrix = { ...told, total: start, cosines: bytes.subarray(4 + length) };
}

function layGlow(pane, view) {
  // One pixel of the canvas is one patch; the browser scales it smoothly to where the square lies over the film.
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

function best(scores, shown, count, without) {
  const order = [];
  for (const patch of shown) {
    if (patch === without) continue;
    if (order.length === count && scores[patch] <= scores[order[count - 1]]) continue;
    let at = order.length;
    while (at > 0 && scores[order[at - 1]] < scores[patch]) at--;
    order.splice(at, 0, patch);
    if (order.length > count) order.pop();
  }
  return order;
}

function spread(scores, shown, without) {
  // Colours begin at the view's 70th percentile: what is common to most patches stays dark.
  const counts = new Uint32Array(256);
  for (const patch of shown) if (patch !== without) counts[scores[patch]]++;
  let seen = 0, low = 0, high = 255;
  while (seen + counts[low] < 0.7 * shown.length) seen += counts[low++];
  while (high > low && counts[high] === 0) high--;
  return [low, high];
}

function answer(anchorSide, patch) {
  const matrix = state.matrix;
  if (!matrix) return;
  performance.clearMeasures("hover");
  const began = performance.now();
  const index = matrix.views[anchorSide].start + patch;
  const row = matrix.cosines.subarray(index * matrix.total, (index + 1) * matrix.total);
  matrix.views.forEach((view, side) => {
    const own = side === anchorSide, scores = row.subarray(view.start, view.start + view.boxes.length);
    const without = own ? patch : -1;
    const [low, high] = spread(scores, view.shown, without), scale = 255 / Math.max(high - low, 6);
    for (let i = 0; i < scores.length; i++) {
      const t = (scores[i] - low) * scale;
      view.cells[i] = t <= 0 ? 0 : PALETTE[t > 255 ? 255 : t | 0];
    }
    if (own) view.cells[patch] = 0;
    find("canvas", panes[side]).getContext("2d").putImageData(view.pixels, 0, 0);
    const top = best(scores, view.shown, 5, without);
    drawBoxes(panes[side], view, own ? patch : null, own ? [] : top);
    const cosine = (value) => (matrix.low + (value / 255) * (matrix.high - matrix.low)).toFixed(2);
    find(".low", panes[side]).textContent = cosine(low);
    find(".high", panes[side]).textContent = cosine(high);
    panes[side].dataset.anchor = own ? patch : "";
    panes[side].dataset.top = own ? "" : top.join(" ");
    panes[side].classList.add("answered");
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
    pane.classList.remove("answered");
    const canvas = find("canvas", pane);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    find("svg", pane).replaceChildren();
    pane.dataset.anchor = pane.dataset.top = "";
  }
  hint();
}

function hint() {
  find(".hint").textContent = state.pinned
    ? "Pinned. Click another patch to move the pin, the same one or Esc to lift it."
    : "Move over a patch: what resembles it glows in both views, the five best are framed. Click to pin.";
}

function pointed(side, event) {
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
    const patch = pointed(side, event);
    if (patch !== null && !state.pinned && pane.dataset.anchor !== String(patch)) answer(side, patch);
  });
  film.addEventListener("pointerleave", () => state.pinned || clear());
  film.addEventListener("click", (event) => {
    const patch = pointed(side, event);
    if (patch === null) return;
    const lifted = state.pinned?.side === side && state.pinned.patch === patch;
    state.pinned = lifted ? null : { side, patch };
    answer(side, patch);
    hint();
  });
});

// ---------------------------------------------------------------- what is on the page

function chips(findings, shared = []) {
  const names = findings.present.map((name) => {
    const chip = make("li", shared.includes(name) ? { class: "shared" } : {});
    chip.textContent = name;
    return chip;
  });
  if (names.length) return names;
  return [make("li", { class: "none" }, findings.absent.length ? "no findings" : "findings unknown")];
}

function showPane(side) {
  const pane = panes[side], study = sideStudy(side), nav = find(".views", pane);
  const chosen = state.views[side];
  const tabs = study.views.map((view, i) =>
    make("button", { "aria-pressed": i === chosen, onclick: () => chooseView(side, i) }, nameOf(view)),
  );
  const whose = [];
  if (side === 1 && state.other) {
    const back = make("button", { onclick: () => compare(null) }, "Back");
    whose.push(make("span", { class: "whose" }, title(study.study), back));
  }
  nav.replaceChildren(...tabs, ...whose);
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
  const words = { mean: "mean of heads", all: "all heads, one colour each" };
  const tiles = kinds.map((kind) => {
    const name = words[kind] ?? `head ${kind + 1}`;
    const address = `/v1/studies/${study.study}/${view}/attention/${kind}.jpg?backbone=${state.backbone}`;
    const frame = make("div", {}, make("img", { src: address, alt: `Attention, ${name}`, loading: "lazy" }));
    const caption = kind === "mean" ? `${nameOf(study.views[view])}, ${name}` : name;
    return make("figure", { class: "tile" }, frame, make("figcaption", {}, caption));
  });
  const strip = find(`.strip[data-side="${side}"]`);
  strip.style.setProperty("--columns", Math.min(kinds.length, 7));
  strip.replaceChildren(...tiles);
}

async function showNearest() {
  const asked = state.study.study, backbone = state.backbone;
  const matches = await json(`/v1/studies/${asked}/neighbours?backbone=${backbone}`);
  if (asked !== state.study.study || backbone !== state.backbone) return;
  const cards = matches.map((match) => {
    const thumbs = [...new Set(pairOf(match.views))].map((view) => make("img", { src: picture(match.study, view, 256), alt: "", loading: "lazy" }));
    const open = make("button", { class: "open", title: `Open ${title(match.study)}`, onclick: () => go(match.study) }, ...thumbs);
    const against = make("button", { class: "compare", onclick: () => compare(match) }, "Compare");
    const row = make("div", { class: "row" }, make("b", {}, title(match.study)), make("span", {}, `cosine ${match.score.toFixed(3)}`), against);
    const list = make("ul", { class: "chips" }, ...chips(match.findings, state.study.findings.present));
    return make("article", { class: "card", "data-study": match.study }, open, make("div", { class: "facts" }, row, list));
  });
  find(".cards").replaceChildren(...(cards.length ? cards : ["No study of another patient is here."]));
}

function listStudy(name) {
  const list = find(".studies");
  if (![...list.options].some((option) => option.value === name)) list.append(make("option", { value: name }, title(name)));
  list.value = name;
}

async function show() {
  clear();
  find(".patient h1").replaceChildren(title(state.study.study), make("small", {}, state.study.key));
  find(".patient .chips").replaceChildren(...chips(state.study.findings));
  listStudy(state.study.study);
  const backbone = state.info.backbones[state.backbone];
  find(".backbone-facts").textContent = backbone.summary;
  all(".seen-by button").forEach((button, i) => button.setAttribute("aria-checked", i === state.backbone));
  [0, 1].forEach(showPane);
  await loadMatrix();
  [0, 1].forEach(showAttention);
  await showNearest();
}

// ---------------------------------------------------------------- what a person may choose

const go = (study) => { location.hash = study; };

async function open(study) {
  room.setAttribute("aria-busy", "true");
  const found = await json(`/v1/studies/${study}`);
  if (study !== wantedStudy()) return; // another was asked for meanwhile
  state.study = found;
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
  const { studies } = state.info, at = studies.indexOf(state.study.study);
  go(studies[(at + by + studies.length) % studies.length]);
}

function shuffle() {
  const { studies } = state.info;
  const others = studies.filter((name) => name !== state.study.study);
  if (others.length) go(others[Math.floor(Math.random() * others.length)]);
}

const wantedStudy = () => decodeURIComponent(location.hash.slice(1)) || state.info.studies[0];

async function begin() {
  state.info = await json("/v1/info");
  find(".studies").replaceChildren(
    ...state.info.studies.map((name) => make("option", { value: name }, title(name))),
  );
  find(".seen-by").replaceChildren(
    ...state.info.backbones.map((backbone, i) =>
      make("button", { role: "radio", title: backbone.summary, onclick: () => attempt(() => { state.backbone = i; return show(); }) }, backbone.label),
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
