// Files of one's own: DICOM or pictures become a study of this session, which is looked at like any other.

import { all, find, make } from "./dom.js";
import { viewName } from "./studies.js";

export function mount(container, room) {
  const { store, http, help, app } = room;
  const uploaded = []; // { study, views, until }: of this page
  const input = make("input", { type: "file", multiple: true, class: "hidden-input", "aria-label": "Files of one study", onchange: () => take(input.files) });
  const zone = make("label", { class: "drop" }, make("b", {}, "Choose the files of one study, or drop them here"), make("span", {}, "DICOM, PNG or JPEG; a file for each view"), input);
  const rules = make("p", { class: "explain" }), problem = make("p", { class: "problem", role: "alert", hidden: true }), list = make("ul", { class: "uploads" });
  const dialog = make("dialog", { class: "upload", "aria-labelledby": "upload-title" },
    make("header", {}, make("h2", { id: "upload-title" }, "Upload a study"), make("button", { class: "plain", onclick: () => dialog.close() }, "Close")),
    zone, problem, rules, list);
  app.append(dialog);
  container.append(make("button", { class: "upload-open", title: "Upload a study (U)", onclick: open }, "Upload"));
  help.addKeys(["U", "upload a study"]);

  function open() {
    if (dialog.open) return;
    const { files, limits } = store.state.info, minutes = limits.upload_minutes;
    rules.textContent = `Of a file only the picture, projection, side and modality are kept (${files.modalities.join(", ")}), in the memory of the server, ` +
      `for this browser alone and for ${minutes} minutes. Names and identifiers are dropped before that. At most ${limits.files} files, ${limits.body_mib} MiB.`;
    problem.hidden = true;
    showList();
    dialog.showModal();
    input.focus();
  }

  async function take(files) {
    if (!files.length) return;
    const form = new FormData();
    for (const file of files) form.append("files", file, "file"); // a file's own name may identify
    input.value = "";
    dialog.setAttribute("aria-busy", "true");
    problem.hidden = true;
    try {
      const answer = await http.json("/v1/uploads", { method: "POST", body: form });
      uploaded.unshift({ ...answer, until: Date.now() + 1000 * answer.seconds });
      dialog.close();
      room.go(answer.study);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      if (!dialog.open) open();
      problem.hidden = false;
    } finally {
      dialog.setAttribute("aria-busy", "false");
    }
  }

  function showList() {
    const now = Date.now(), rows = uploaded.filter(({ until }) => until > now).map(({ study, views, until }) => {
      const minutes = Math.max(1, Math.round((until - now) / 60000)), names = views.map(viewName).join(", ");
      return make("li", {}, make("span", {}, `${names}; ${minutes} more minutes`),
        make("button", { onclick: () => { dialog.close(); room.go(study); } }, "Open"),
        make("button", { class: "plain", onclick: () => remove(study) }, "Delete"));
    });
    list.replaceChildren(...rows);
  }

  async function remove(study) {
    try {
      await http.request(`/v1/studies/${study}`, { method: "DELETE" });
      uploaded.splice(uploaded.findIndex((one) => one.study === study), 1);
      if (store.state.study?.study === study) room.go("");
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    showList();
  }

  // Files may be dropped anywhere on the page.
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    app.classList.add("dropping");
  });
  window.addEventListener("dragleave", (event) => event.relatedTarget === null && app.classList.remove("dropping"));
  window.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    app.classList.remove("dropping");
    take(event.dataTransfer.files);
  });
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key.toLowerCase() !== "u") return;
    if (event.target.closest?.("select, input, textarea, dialog") || all("dialog[open]", app).length || !store.state.info) return;
    event.preventDefault();
    open();
  });
  find("button", dialog).setAttribute("aria-label", "Close the upload");
}
