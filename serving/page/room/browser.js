// The list of studies: a page at a time from the gallery, with filters; by position in the shards where there is no gallery.

import { make } from "./dom.js";

export function mount(container, room) {
  const { store } = room;
  const list = make("ol", { class: "studies" });
  container.append(list);

  async function show() {
    const { info } = store.state;
    if (!info) return;
    const { split, studies } = info.shards, names = Array.from({ length: Math.min(50, studies) }, (_, i) => `${split}-${i}`);
    list.replaceChildren(...names.map((name) => make("li", {}, make("button", { "data-study": name, onclick: () => room.go(name) }, room.title(name)))));
  }

  room.step = (by) => {
    const { info, study } = store.state, { split, studies } = info.shards;
    const at = Number(study.study.split("-")[1]);
    room.go(`${split}-${(at + by + studies) % studies}`);
  };
  room.shuffle = () => {
    const { info } = store.state;
    room.go(`${info.shards.split}-${Math.floor(Math.random() * info.shards.studies)}`);
  };

  store.on(["info"], () => room.attempt(show));
}
