// How many tiles fit this window, and how large they are: remembered by the browser, read by the server.

const SIZES = ["s", "m", "l", "xl"];
const AT_LEAST = 20;
const AT_MOST = 200;
const YEAR_S = 365 * 24 * 3600;

const remember = (name, value) => {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${name}=${value}; path=/; max-age=${YEAR_S}; SameSite=Lax${secure}`;
};

/** How many tiles are in sight at once, whole rows only; null while there is no tile to measure. */
export function fitting() {
  const list = document.getElementById("tiles");
  const tile = list?.querySelector(".tile");
  if (!tile) return null;
  const gap = Number.parseFloat(getComputedStyle(list).rowGap) || 0;
  const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
  const bar = document.getElementById("accept-bar").offsetHeight;
  const above = list.getBoundingClientRect().top + scrollY;
  const rows = Math.max(1, Math.floor((innerHeight - above - bar + gap) / (tile.offsetHeight + gap)));
  // Whole rows, enough of them for the least there is to a screen.
  const wanted = Math.max(rows, Math.ceil(AT_LEAST / columns));
  return Math.min(AT_MOST, Math.max(AT_LEAST, columns * wanted));
}

/** Remember what fits; the number, where the server gave another one and has more or fewer to give. */
export function rememberFit() {
  const fits = fitting();
  const grid = document.getElementById("grid");
  if (fits === null || new URLSearchParams(location.search).has("tiles")) return null;
  remember("winnow_tiles", fits);
  const served = Number(grid.dataset.tiles);
  const shown = document.querySelectorAll(".tile").length;
  const isOther = shown > fits || (served < fits && shown === served);
  return isOther ? fits : null;
}

/** One size smaller or larger; whether there is one. */
export function resize(by) {
  const grid = document.getElementById("grid");
  const size = SIZES[SIZES.indexOf(grid.dataset.size) + by];
  if (!size) return false;
  grid.classList.replace(`size-${grid.dataset.size}`, `size-${size}`);
  grid.dataset.size = size;
  remember("winnow_tile_size", size);
  return true;
}
