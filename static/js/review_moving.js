// The tiles of the grid, which of them has the focus, and the arrow keys.

export const tiles = () => [...document.querySelectorAll(".tile")];
export const boxOf = (tile) => tile.querySelector(".mark");
export const focusedTile = () => document.activeElement?.closest?.(".tile") ?? null;

/** One tile alone is in the tab order: the one that had the focus last. */
export function keepInOrder(tile) {
  for (const each of tiles()) boxOf(each).tabIndex = each === tile ? 0 : -1;
}

export function focus(tile) {
  keepInOrder(tile);
  boxOf(tile).focus();
}

/** The tile an arrow, Home or End leads to from the focused one; null where there is none. */
export function target(key) {
  const all = tiles();
  if (!all.length) return null;
  const now = all.indexOf(focusedTile());
  if (now < 0) return all.find((tile) => boxOf(tile).tabIndex === 0) ?? all[0];
  if (key === "Home") return all[0];
  if (key === "End") return all.at(-1);
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const isForward = (key === "ArrowRight") === (getComputedStyle(all[0]).direction === "ltr");
    return all[now + (isForward ? 1 : -1)] ?? null;
  }
  const top = all[0].offsetTop;
  const columns = all.findIndex((tile) => tile.offsetTop > top);
  if (columns < 0) return null; // all tiles are in one row
  const next = now + (key === "ArrowDown" ? columns : -columns);
  const isAbove = Math.floor(now / columns) < Math.floor((all.length - 1) / columns);
  if (key === "ArrowDown" && next >= all.length && isAbove) return all.at(-1);
  return all[next] ?? null;
}
