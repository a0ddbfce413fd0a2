// The cosines of all patches of two views, one backbone: a matrix of uint8. Looking one row up is what a hover costs.

const STOPS = [[16, 84, 110], [24, 170, 160], [70, 235, 175], [210, 255, 140]];

function color(t) {
  const at = t * (STOPS.length - 1), i = Math.min(Math.floor(at), STOPS.length - 2), f = at - i;
  const [r, g, b] = STOPS[i].map((low, c) => low + (STOPS[i + 1][c] - low) * f);
  const opacity = 165 * t ** 1.5; // the anatomy stays visible under the most similar patch
  return (Math.round(opacity) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
}
const PALETTE = Uint32Array.from({ length: 256 }, (_, i) => color(i / 255));

// From the answer of GET /v1/similarity.
export function makeMatrix({ header, bytes }) {
  let start = 0;
  const views = header.views.map((grid) => {
    const columns = grid.side / grid.patch, image = new ImageData(columns, columns);
    const inView = Uint32Array.from(grid.inside.flatMap((inside, patch) => (inside ? [patch] : [])));
    const view = { ...grid, columns, inView, start, image, cells: new Uint32Array(image.data.buffer) };
    start += grid.boxes.length;
    return view;
  });
  return { low: header.low, high: header.high, views, total: start, cosines: bytes };
}

export const cosine = (matrix, value) => matrix.low + (value / 255) * (matrix.high - matrix.low);

// The patch at a point, given as fractions of the view.
export function patchAt(view, { x, y }) {
  const [top, left, rows, columns] = view.letterbox, last = view.columns - 1;
  const row = Math.floor((top + y * rows) / view.patch), column = Math.floor((left + x * columns) / view.patch);
  return Math.min(Math.max(row, 0), last) * view.columns + Math.min(Math.max(column, 0), last);
}

// The middle of a patch, as fractions of the view.
export function middleOf(view, patch) {
  const [x0, y0, x1, y1] = view.boxes[patch];
  return { x: (x0 + x1) / 2 / view.width, y: (y0 + y1) / 2 / view.height };
}

// Similarities of a patch of view `from` with all patches of view `to`, as uint8.
export function scoresOf(matrix, from, patch, to) {
  const begin = (matrix.views[from].start + patch) * matrix.total + matrix.views[to].start;
  return matrix.cosines.subarray(begin, begin + matrix.views[to].boxes.length);
}

// The most similar patches inside the view, best first; ties by their number.
export function best(scores, inView, count, without) {
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

// Colors the view's patches into its image; gives the scores where the colors begin and end. They begin at the view's 70th
// percentile: what most patches have in common stays dark.
export function colored(view, scores, without) {
  const counts = new Uint32Array(256), { inView, cells } = view;
  for (const patch of inView) if (patch !== without) counts[scores[patch]]++;
  let seen = 0, low = 0, high = 255;
  while (low < 255 && seen + counts[low] < 0.7 * inView.length) seen += counts[low++];
  while (high > low && counts[high] === 0) high--;
  const scale = 255 / Math.max(high - low, 6);
  for (let i = 0; i < scores.length; i++) {
    const t = (scores[i] - low) * scale;
    cells[i] = t <= 0 ? 0 : PALETTE[t > 255 ? 255 : t | 0];
  }
  if (without >= 0) cells[without] = 0;
  return [low, high];
}
