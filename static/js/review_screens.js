// Screens: the next one is fetched while this one is looked at, its pictures too; going there and back decides nothing.

import { look } from "./sending.js";

let ahead = null; // { href, part }: the next screen, as the server gave it

/** Fetch the next screen and its pictures, once this one is there. */
export async function fetchAhead() {
  const href = document.getElementById("screen-next")?.getAttribute("href");
  if (!href || ahead?.href === href) return;
  const result = await look(new URL(href, location.href).href);
  if (result.outcome !== "done" || !result.part.getElementById("tiles")) return;
  ahead = { href, part: result.part };
  for (const picture of result.part.querySelectorAll(".tile img")) {
    const early = new Image();
    early.fetchPriority = "low";
    early.src = picture.getAttribute("src");
  }
}

/** The grid at this address: fetched ahead, or now. What came of it, as `look` says it. */
export async function gridAt(href) {
  if (ahead?.href === href) {
    const { part } = ahead;
    ahead = null;
    return { outcome: "done", part };
  }
  return look(new URL(href, location.href).href);
}

/** Something was decided: what was fetched ahead may be untrue. */
export function forgetAhead() {
  ahead = null;
}
