// What the person says of each tile: "right", "wrong", "left" (undecided), or the id of the class it is instead.
//
// Marks outlive a failed request and a reload. What was said at once is one step back.

import { boxOf, tiles } from "./review_moving.js";
import { gettext } from "./words.js";

const dialog = document.getElementById("other-classes");
export const classOf = (button) => button.value.split(":")[1];
const names = new Map([...dialog.querySelectorAll(".choice")].map((button) => [classOf(button), button.dataset.name]));
const store = () => `winnow:marks:${location.pathname}:${document.getElementById("grid").dataset.shows}`;
let steps = [];

export function verdictOf(tile) {
  if (tile.querySelector("[name=left]")) return "left";
  const other = tile.querySelector("[name=corrected]");
  if (other) return other.value.split(":")[1];
  return boxOf(tile).checked ? "wrong" : "right";
}

/** Say the same of all these tiles, as one step that `stepBack` takes back. */
export function judge(some, verdict) {
  steps.push(some.map((tile) => [tile.dataset.tile, verdictOf(tile)]));
  for (const tile of some) put(tile, verdict);
  keep();
}

/** Take the last step on this screen back; whether there was one. */
export function stepBack() {
  const step = steps.pop();
  if (!step) return false;
  const byId = new Map(tiles().map((tile) => [tile.dataset.tile, tile]));
  for (const [id, verdict] of step) if (byId.has(id)) put(byId.get(id), verdict);
  keep();
  return true;
}

/** A new screen: nothing to step back to, and what was said of its tiles before is said again. */
export function bringBack() {
  steps = [];
  const marks = read();
  for (const tile of tiles()) put(tile, marks[tile.dataset.tile] ?? verdictOf(tile));
}

/** The server knows: what was said of these tiles needs no keeping; what was left undecided stays so. */
export function forget() {
  write({ ...read(), ...Object.fromEntries(tiles().map((tile) => [tile.dataset.tile, undefined])) });
}

function put(tile, verdict) {
  const isOwn = verdict === tile.dataset.class;
  const other = !isOwn && names.has(verdict) ? verdict : null;
  const isLeft = verdict === "left";
  boxOf(tile).checked = verdict === "wrong" || other !== null;
  for (const field of tile.querySelectorAll("[name=corrected], [name=left]")) field.remove();
  if (other) addField(tile, "corrected", `${tile.dataset.tile}:${other}`);
  if (isLeft) addField(tile, "left", tile.dataset.tile);
  const text = tile.querySelector(".verdict");
  text.dataset.plain ??= text.textContent;
  text.textContent = other ? names.get(other) : isLeft ? gettext("left undecided") : text.dataset.plain;
  tile.classList.toggle("corrected", Boolean(other));
  tile.classList.toggle("left", isLeft);
  tile.querySelector(".which").hidden = !boxOf(tile).checked;
  // Said by the box itself: marked, or not. What is beyond that, in words.
  if (other || isLeft) boxOf(tile).setAttribute("aria-description", text.textContent);
  else boxOf(tile).removeAttribute("aria-description");
}

function addField(tile, name, value) {
  const field = document.createElement("input");
  Object.assign(field, { type: "hidden", name, value });
  tile.append(field);
}

function keep() {
  const marks = {};
  for (const tile of tiles()) {
    const verdict = verdictOf(tile);
    marks[tile.dataset.tile] = verdict === "right" ? undefined : verdict;
  }
  write({ ...read(), ...marks });
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(store())) ?? {};
  } catch {
    return {};
  }
}

function write(marks) {
  try {
    sessionStorage.setItem(store(), JSON.stringify(marks));
  } catch { /* refused: the marks live as long as the page */ }
}
