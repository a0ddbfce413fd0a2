// In how many columns panes stand: as many as make the pictures largest.

const FRAME = { width: 2, height: 76 }; // what a pane takes around its picture, in pixels at the smallest font

// ratios: width / height of each pane's picture; W, H: pixels for all panes.
export function bestColumns(ratios, W, H, unit = 1) {
  let most = 0, columns = ratios.length;
  for (let count = ratios.length; count >= 1; count--) {
    const width = W / count - FRAME.width * unit, height = H / Math.ceil(ratios.length / count) - FRAME.height * unit;
    const area = ratios.reduce((sum, ratio) => sum + Math.max(0, Math.min(width, height * ratio)) ** 2 / ratio, 0);
    if (area > 1.05 * most) [most, columns] = [area, count];
  }
  return columns;
}
