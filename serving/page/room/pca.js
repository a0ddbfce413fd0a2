// Patch tokens as colors: their first three principal components as red, green and blue, of all views of a study together.

import { make } from "./dom.js";
import { asCanvas, checkbox, drawSmall, patchesOf, slider, smallPicture, whileOpen } from "./maps.js";
import { viewName } from "./studies.js";

export function mount(container, room) {
  const { store, http, help } = room, ask = http.cached(http.binary, 8);
  store.declare("blend", { initial: 70, read: (text) => (/^\d{1,3}$/.test(text) && text <= 100 ? Number(text) : undefined), write: String });
  store.declare("background", { initial: false, read: (text) => (text === "true" ? true : undefined), write: String });
  const strips = make("div", { class: "strips" });
  container.append(
    help.explain({
      name: "Colors",
      means: "Places of like color have like features, in all views here: red, green and blue are the three directions in which the features of what is colored differ most.",
      not: "A color does not stand for an organ or a finding, and means something else for another backbone or study.",
    }),
    slider(room, "blend", { name: "Strength of the colors", low: 0, high: 100, step: 5, unit: "%" }),
    checkbox(room, "background", "Color the background, too"),
    strips,
  );

  // Colors of all views of the study, and of the one beside it: { shares, views: [{ study, view, ..., image }] }.
  async function colorsOf(backbone) {
    const { study, other } = store.state, names = [study, other].filter(Boolean).map((one) => `study=${one.study}`);
    const { header, bytes } = await ask(`/v1/pca?${[...new Set(names)].join("&")}&backbone=${backbone}&background=${store.state.background}`);
    let start = 0;
    const views = header.views.map((grid) => {
      const { columns, edge } = patchesOf(grid), image = new ImageData(columns, columns);
      const rgba = bytes.subarray(start, (start += 4 * grid.boxes.length));
      for (let patch = 0; patch < grid.boxes.length; patch++) {
        const from = 4 * edge(patch);
        image.data.set([rgba[from], rgba[from + 1], rgba[from + 2], (rgba[from + 3] * store.state.blend) / 100], 4 * patch);
      }
      return { ...grid, image };
    });
    return { backbone, shares: header.shares, views };
  }

  async function draw(isStale) {
    const { panes, backbones, blend } = store.state;
    const found = await Promise.all(backbones.map(colorsOf));
    const strip = await Promise.all(found.map(stripOf));
    if (isStale()) return;
    for (const pane of panes) {
      const { study, view, backbone } = pane.shown;
      const its = found.find((one) => one.backbone === backbone)?.views.find((one) => one.study === study && one.view === view);
      its ? pane.paint("pca", its, its.image) : pane.erase("pca");
    }
    strips.replaceChildren(...strip);
    container.dataset.drawn = [blend, store.state.background, backbones, ...panes.map(({ shown }) => `${shown.study}/${shown.view}`)].join(" ");
  }

  async function stripOf({ backbone, shares, views }) {
    const tiles = await Promise.all(views.map(async (view) => {
      const canvas = make("canvas"), { study, other, info } = store.state;
      drawSmall(canvas, await smallPicture(view.study, view.view), view, asCanvas(view.image), { dim: 1 });
      const own = [study, other].find((one) => one?.study === view.study), name = viewName(own.views[view.view]);
      const open = () => room.showView(view.study, view.view);
      const words = other ? `${room.title(view.study)}, ${name}` : name;
      return make("button", { class: "tile", title: `Show ${words} on the ${own === study ? "left" : "right"}`, onclick: open }, canvas, make("span", {}, words));
    }));
    const percent = shares.map((share) => `${Math.round(100 * share)} %`);
    const parts = ["red", "green", "blue"].map((name, i) => (percent[i] ? make("li", {}, make("i", { class: `dot ${name}` }), `${name} ${percent[i]}`) : null));
    return make("section", { class: "strip", "data-backbone": backbone },
      make("h2", {}, store.state.info.backbones[backbone].label),
      make("ul", { class: "shares", title: "Share of the features' variance" }, ...parts, make("li", {}, "of the variance")),
      make("div", { class: "tiles" }, ...tiles));
  }

  // A view of the study goes to the left, one of the study beside it to the right.
  room.showView = (study, view) => {
    const { views, other } = store.state, side = other?.study === study && store.state.study.study !== study ? 1 : 0;
    store.set({ chosen: views.with(side, view), pin: null, anchor: null });
  };

  whileOpen(room, "pca", ["blend", "background"], draw);
  room.captions.set("pca", () => `Colors: the first three principal components of the patch features, of all views together, ${store.state.background ? "with" : "without"} the background. Like colors, like features.`);
}
