// Window and level: which gray values are spread over black to white.

export const FULL_WINDOW = { width: 255, center: 127.5 };

// Gray value -> opaque gray: `width` values around `center` go from black to white.
export function windowTable({ width, center }) {
  return Uint32Array.from({ length: 256 }, (_, value) => {
    const gray = Math.round(255 * Math.min(1, Math.max(0, (value - center) / width + 0.5)));
    return ((255 << 24) | (gray << 16) | (gray << 8) | gray) >>> 0;
  });
}
