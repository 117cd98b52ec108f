// Which tiles are selected: a run in reading order, or single ones. What is done next is done to all of them.

import { boxOf, focusedTile, tiles } from "./review_moving.js";
import { gettext, interpolate, ngettext } from "./words.js";

const chosen = new Set();
let anchor = null; // where a run begins

export const selected = () => tiles().filter((tile) => chosen.has(tile));
export const isSelected = (tile) => chosen.has(tile);
export const hasSelection = () => chosen.size > 0;

/** What a key is for: the selection, else the tile with the focus. */
export function targets() {
  if (chosen.size) return selected();
  const tile = focusedTile();
  return tile ? [tile] : [];
}

/** A run begins here when the next tile is reached with Shift. */
export function setAnchor(tile) {
  anchor = tile;
}

/** Select the run from the anchor to this tile, and what was selected before it began. */
export function selectRun(tile, kept = new Set()) {
  const all = tiles();
  if (!all.includes(anchor)) anchor = focusedTile() ?? tile;
  const [start, end] = [all.indexOf(anchor), all.indexOf(tile)].sort((a, b) => a - b);
  chosen.clear();
  for (const each of kept) chosen.add(each);
  for (const each of all.slice(start, end + 1)) chosen.add(each);
  show();
}

export function toggle(tile) {
  if (!chosen.delete(tile)) chosen.add(tile);
  anchor = tile;
  show();
}

export function selectAll() {
  for (const tile of tiles()) chosen.add(tile);
  show();
}

/** Nothing is selected any more; whether something was. */
export function clear() {
  const was = chosen.size > 0;
  chosen.clear();
  anchor = null;
  show({ isQuiet: !was });
  return was;
}

function show({ isQuiet = false } = {}) {
  for (const tile of tiles()) {
    tile.classList.toggle("selected", chosen.has(tile));
    tile.querySelector(".pick").setAttribute("aria-pressed", String(chosen.has(tile)));
  }
  const accepting = document.getElementById("accepting");
  const selecting = document.getElementById("selecting");
  if (!selecting) return;
  const wasInside = selecting.contains(document.activeElement);
  selecting.hidden = chosen.size === 0;
  accepting.hidden = chosen.size > 0;
  document.getElementById("grid").classList.toggle("has-selection", chosen.size > 0);
  selecting.querySelector("[data-act=like]").disabled = chosen.size > 1;
  const text = chosen.size
    ? interpolate(ngettext("%(n)s selected", "%(n)s selected", chosen.size), { n: chosen.size })
    : gettext("Nothing is selected");
  document.getElementById("selected-count").textContent = text;
  if (!isQuiet) document.getElementById("said").textContent = text;
  if (wasInside && !chosen.size) boxOf(tiles().find((tile) => boxOf(tile).tabIndex === 0) ?? tiles()[0])?.focus();
}
