// Names of studies and views as people read them, and which views stand beside each other.

const FRONTAL = ["VD", "DV", "AP", "PA"];

// "test-11" of the split `test` is "Study 12".
export function title(name, shards) {
  if (name.startsWith("upload-")) return "Uploaded study";
  const [split, position] = name.split("-");
  return `Study ${(Number(position) + 1).toLocaleString("en")}${split === shards?.split ? "" : ` of ${split}`}`;
}

export function viewName(view) {
  const name = view.projection === "UNKNOWN" ? view.modality || "View" : view.projection;
  return view.laterality ? `${name} ${view.laterality}` : name;
}

// The first view and the first of the other plane; the second view if there is none.
export function pairOf(views) {
  const frontal = ({ projection }) => FRONTAL.includes(projection);
  const otherPlane = views.findIndex((view) => frontal(view) !== frontal(views[0]));
  return [0, otherPlane > 0 ? otherPlane : Math.min(1, views.length - 1)];
}

// The view of another study that is of the same projection as this one; its first if it has none.
export const sameView = (views, view) => Math.max(0, views.findIndex(({ projection }) => projection === view.projection));

export const picture = (study, view, side) => `/v1/studies/${study}/${view}.jpg?side=${side}`;

export const finding = (name) => name.replaceAll("_", " ");

// {name: true | false | null}, as the gallery has it -> {present, absent}, as a study has it.
export function byState(findings) {
  const names = Object.keys(findings);
  return { present: names.filter((name) => findings[name]), absent: names.filter((name) => findings[name] === false) };
}
