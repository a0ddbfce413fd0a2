// Dark or light: as the system has it until somebody chooses; the choice is remembered in this browser.

const KEY = "vetdino-theme";

export function bindTheme(button) {
  const light = matchMedia("(prefers-color-scheme: light)");
  const chosen = () => {
    try { return localStorage.getItem(KEY); } catch { return null; } // storage may be forbidden
  };
  const theme = () => chosen() ?? (light.matches ? "light" : "dark");

  function show() {
    document.documentElement.dataset.theme = theme();
    button.setAttribute("aria-pressed", theme() === "light");
  }

  function toggle() {
    try { localStorage.setItem(KEY, theme() === "light" ? "dark" : "light"); } catch { /* not remembered */ }
    show();
  }

  button.addEventListener("click", toggle);
  light.addEventListener("change", show);
  show();
  return { toggle };
}
