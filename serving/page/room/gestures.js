// What mouse and keys do on a pane: hover, pin, zoom, pan, window and level.

import { FULL_WINDOW } from "./gray.js";
import { MOST_ZOOM, WHOLE } from "./viewer.js";

const inside = ({ x, y }) => x >= 0 && x < 1 && y >= 0 && y < 1;
const limited = (value, low, high) => Math.min(Math.max(value, low), high);

export function bindGestures(pane, room) {
  const { store } = room, { stage, side } = pane;
  let drag = null, clickable = false, before = null;

  const anchorAt = (event) => ({ side, backbone: pane.shown?.backbone, ...pane.pointAt(event.clientX, event.clientY) });
  const setZoom = (zoom) => store.set({ zooms: store.state.zooms.with(side, zoom) });
  const setWindow = (window) => store.set({ windows: store.state.windows.with(side, window) });

  function hover(event) {
    const point = anchorAt(event);
    if (!store.state.pin) store.set({ anchor: inside(point) ? point : null });
  }

  // Zooms so that the point (fractions of the view) stays where it is on the stage.
  function zoomBy(factor, point) {
    const { scale, x, y } = pane.zoom ?? WHOLE, next = limited(scale * factor, 1, MOST_ZOOM);
    if (next === 1) return setZoom(null);
    setZoom({ scale: next, x: point.x + ((x - point.x) * scale) / next, y: point.y + ((y - point.y) * scale) / next });
  }

  function panBy(dx, dy) {
    const { scale, x, y } = pane.zoom ?? WHOLE, { width, height } = pane.place;
    setZoom({ scale, x: limited(x - dx / width, 0, 1), y: limited(y - dy / height, 0, 1) });
  }

  function windowBy(dx, dy) {
    const { width, center } = pane.window ?? FULL_WINDOW;
    setWindow({ width: limited(width + dx, 2, 510), center: limited(center - dy, 0, 255) });
  }

  const reset = () => { setZoom(null); setWindow(null); };

  function pin(point) {
    const { pin } = store.state;
    const again = pin && pin.side === side && room.samePatch(pin, point);
    store.set({ pin: again ? null : point, anchor: point });
  }

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), pane.pointAt(event.clientX, event.clientY));
    hover(event);
  }, { passive: false });

  stage.addEventListener("pointerdown", (event) => {
    const windowing = event.button === 2 || (event.button === 0 && room.isHeld("w"));
    stage.setPointerCapture(event.pointerId);
    drag = { kind: windowing ? "window" : "pan", x: event.clientX, y: event.clientY, moved: 0 };
  });

  stage.addEventListener("pointermove", (event) => {
    if (!drag) return hover(event);
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved += Math.abs(dx) + Math.abs(dy);
    if (drag.moved < 4) return;
    [drag.x, drag.y] = [event.clientX, event.clientY];
    stage.dataset.drag = drag.kind;
    drag.kind === "window" ? windowBy(dx, dy) : panBy(dx, dy);
  });

  function endDrag() {
    clickable = drag !== null && drag.moved < 4 && drag.kind === "pan";
    drag = null;
    delete stage.dataset.drag;
  }

  stage.addEventListener("pointerup", endDrag);
  stage.addEventListener("pointercancel", endDrag);
  stage.addEventListener("click", (event) => {
    if (!clickable || event.detail > 1) return; // the second click of two resets
    const point = anchorAt(event);
    before = store.state.pin;
    if (inside(point)) pin(point);
  });
  stage.addEventListener("pointerleave", () => drag || store.set({ anchor: null }));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("dblclick", () => {
    store.set({ pin: before }); // the first click of the two was not meant as one
    reset();
  });

  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = keyAction(event);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  });

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function keyAction({ key, shiftKey }) {
    const middle = pane.zoom ?? WHOLE, move = MOVES[key];
    if (move && shiftKey) return () => panBy(-40 * move[0], -40 * move[1]);
    if (move) return () => room.moveAnchor(pane, ...move);
    return {
      "+": () => zoomBy(1.25, middle), "=": () => zoomBy(1.25, middle), "-": () => zoomBy(0.8, middle), 0: reset,
      "[": () => windowBy(-12, 0), "]": () => windowBy(12, 0), ",": () => windowBy(0, -6), ".": () => windowBy(0, 6),
      Enter: () => store.state.anchor?.side === side && pin(store.state.anchor),
      " ": () => store.state.anchor?.side === side && pin(store.state.anchor),
    }[key];
  }
}
