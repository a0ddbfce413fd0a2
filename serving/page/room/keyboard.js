// Keys that hold everywhere on the page. Those of a pane are in gestures.js.

export function bindKeys(room) {
  const held = new Set();
  room.isHeld = (key) => held.has(key);

  const actions = {
    n: () => room.step(1), p: () => room.step(-1), r: () => room.shuffle(),
    l: () => room.store.set({ list: !room.store.state.list }),
    t: () => room.theme.toggle(), "?": () => room.help.open(),
    escape: () => room.store.set({ pin: null, anchor: null }),
  };

  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    held.add(key);
    if (event.target.closest?.("select, input, textarea, dialog[open]")) return;
    const backbone = /^[1-9]$/.test(key) ? Number(key) - 1 : -1;
    const action = actions[key] ?? (backbone >= 0 ? () => room.toggleBackbone(backbone) : null);
    if (!action || !room.store.state.study) return;
    event.preventDefault();
    action();
  });
  window.addEventListener("keyup", (event) => held.delete(event.key.toLowerCase()));
  window.addEventListener("blur", () => held.clear());

  room.help.addKeys(
    ["N, P", "next and previous study of the list"], ["R", "a random study"], ["L", "list of studies"],
    ["1 to 9", "a backbone beside the others, or away"], ["T", "dark or light"], ["?", "this help"],
    ["Wheel, + −", "zoom about the pointer"], ["Drag, Shift + arrows", "move the picture"],
    ["Right drag, W + drag, [ ] , .", "window and level"], ["Double click, 0", "zoom, window and level as at first"],
    ["Arrows on a view", "move over patches"], ["Click, Enter", "pin a patch"], ["Esc", "remove the pin"],
  );
}
