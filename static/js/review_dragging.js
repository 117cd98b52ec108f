// Selecting by hand: drag with the mouse, or press long and drag with a finger. Neither gets in the way of a click,
// a tap or a scroll.

import { clear, hasSelection, isSelected, selectRun, selected, setAnchor, toggle } from "./review_selecting.js";

const FAR_PX = 8; // less is a click that slipped
const LONG_MS = 450;
const EDGE_PX = 56; // so near the edge of the window a drag scrolls on

const grid = document.getElementById("main");
let drag = null; // { tile, x, y, kept, isOn, isTouch }
let timer = null;
let isEnding = false; // the click that ends a drag is none

const tileAt = (x, y) => document.elementFromPoint(x, y)?.closest(".tile") ?? null;

function begin(tile, x, y, isTouch) {
  drag = { tile, x, y, at: [x, y], isOn: false, isTouch, kept: new Set(isTouch ? selected() : []) };
}

function start() {
  drag.isOn = true;
  setAnchor(drag.tile);
  selectRun(drag.tile, drag.kept);
  document.documentElement.classList.add("is-dragging");
  requestAnimationFrame(scrollOn);
}

function extend(x, y) {
  drag.at = [x, y];
  const tile = tileAt(x, y);
  if (tile) selectRun(tile, drag.kept);
}

function end() {
  clearTimeout(timer);
  if (drag?.isOn) {
    isEnding = true;
    setTimeout(() => { isEnding = false; }); // it comes at once, or not at all
    document.documentElement.classList.remove("is-dragging");
  }
  drag = null;
}

function scrollOn() {
  if (!drag?.isOn) return;
  const [x, y] = drag.at;
  const bottom = document.getElementById("accept-bar")?.getBoundingClientRect().top ?? innerHeight;
  const by = y < EDGE_PX ? -8 : y > bottom - EDGE_PX ? 8 : 0;
  if (by) {
    scrollBy({ top: by, behavior: "instant" });
    extend(x, Math.min(Math.max(y, 1), bottom - 1));
    drag.at = [x, y];
  }
  requestAnimationFrame(scrollOn);
}

// ---- mouse and pen --------------------------------------------------------------------------------------------

grid.addEventListener("pointerdown", (event) => {
  if (event.pointerType === "touch" || event.button !== 0 || event.shiftKey || event.ctrlKey || event.metaKey) return;
  const tile = event.target.closest(".tile");
  if (tile && !event.target.closest("button")) begin(tile, event.clientX, event.clientY, false);
});

document.addEventListener("pointermove", (event) => {
  if (!drag || drag.isTouch) return;
  if (!drag.isOn && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < FAR_PX) return;
  if (!drag.isOn) start();
  extend(event.clientX, event.clientY);
  event.preventDefault();
});

document.addEventListener("pointerup", () => !drag?.isTouch && end());
document.addEventListener("pointercancel", () => !drag?.isTouch && end());

// A click into nothing clears the selection, as everywhere.
grid.addEventListener("click", (event) => {
  if (event.target.closest(".tile, a, button, input, select, summary, label, .accept-bar, dialog")) return;
  if (!isEnding && hasSelection()) clear();
});

// ---- fingers --------------------------------------------------------------------------------------------------

grid.addEventListener("touchstart", (event) => {
  clearTimeout(timer);
  const tile = event.target.closest(".tile");
  if (event.touches.length !== 1 || !tile || event.target.closest("button")) return end();
  const { clientX, clientY } = event.touches[0];
  begin(tile, clientX, clientY, true);
  timer = setTimeout(() => {
    start();
    navigator.vibrate?.(15);
  }, LONG_MS);
}, { passive: true });

grid.addEventListener("touchmove", (event) => {
  if (!drag?.isTouch) return;
  const { clientX, clientY } = event.touches[0];
  if (drag.isOn) {
    event.preventDefault(); // the drag selects; the page stays where it is
    extend(clientX, clientY);
  } else if (Math.hypot(clientX - drag.x, clientY - drag.y) > FAR_PX) end(); // it scrolls
}, { passive: false });

grid.addEventListener("touchend", (event) => {
  if (drag?.isOn) event.preventDefault();
  end();
}, { passive: false });
grid.addEventListener("touchcancel", end);
grid.addEventListener("contextmenu", (event) => {
  if (drag?.isTouch) event.preventDefault(); // the menu of a long press
});

// ---- clicks that select ---------------------------------------------------------------------------------------

let isFinger = false;
grid.addEventListener("pointerdown", (event) => { isFinger = event.pointerType === "touch"; }, { capture: true });

grid.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  if (isEnding) {
    event.preventDefault();
    event.stopPropagation();
    return;
  }
  const isPick = Boolean(event.target.closest(".pick"));
  if (event.target.closest("button") && !isPick) return;
  if (event.shiftKey) selectRun(tile);
  else if (isPick || event.ctrlKey || event.metaKey || (isFinger && hasSelection())) toggle(tile);
  else {
    if (!isSelected(tile)) setAnchor(tile);
    return;
  }
  event.preventDefault();
  event.stopPropagation();
}, { capture: true });
