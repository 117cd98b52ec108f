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

/** Remember what fits, for the screens to come. An address that names a number has its way. */
export function rememberFit() {
  const fits = fitting();
  if (fits !== null && !new URLSearchParams(location.search).has("tiles")) remember("winnow_tiles", fits);
}

/** On the first screen ever the server did not know the window: what does not fit moves to the next screen. */
export function dropWhatDoesNotFit() {
  const fits = fitting();
  const all = [...document.querySelectorAll(".tile")];
  if (fits === null || all.length <= fits || document.cookie.includes("winnow_tiles=")) return;
  const place = all[fits - 1].dataset.after;
  if (!place || new URLSearchParams(location.search).has("tiles")) return;
  for (const tile of all.slice(fits)) tile.remove();
  const next = new URLSearchParams(document.querySelector("[name=here]").value);
  next.delete("before");
  next.set("after", place);
  document.querySelector("[name=last]").value = place;
  const link = document.getElementById("screen-next");
  link.setAttribute("href", `?${next}`);
  link.removeAttribute("aria-disabled");
  link.removeAttribute("role");
  link.classList.remove("gone");
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
