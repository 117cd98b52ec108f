// A grid of images that get a class: how many are ticked, runs of ticks with Shift, arrows, all and none at once.

import { interpolate, ngettext } from "./words.js";

const form = document.getElementById("giving");
const tiles = document.getElementById("group-tiles");

if (form && tiles) {
  const boxes = [...tiles.querySelectorAll("input[type=checkbox]")];
  const text = document.getElementById("give-text");
  const button = document.getElementById("give");
  let last = 0; // the box that was ticked last

  const count = () => {
    const n = boxes.filter((box) => box.checked).length;
    text.textContent = interpolate(ngettext("Give %(n)s image this class", "Give %(n)s images this class", n), { n });
    button.disabled = n === 0;
  };

  const setAll = (isTicked) => {
    for (const box of boxes) box.checked = isTicked;
    count();
  };

  document.getElementById("tick-all").addEventListener("click", () => setAll(true));
  document.getElementById("tick-none").addEventListener("click", () => setAll(false));

  tiles.addEventListener("click", (event) => {
    const box = event.target.closest("label")?.querySelector("input");
    // A label's click comes again from its box; that one is the change.
    if (!box || event.target !== box) return;
    const at = boxes.indexOf(box);
    if (event.shiftKey) {
      for (const each of boxes.slice(Math.min(at, last), Math.max(at, last) + 1)) each.checked = box.checked;
    }
    last = at;
    count();
  });
  // With Shift held a click on a picture would select text instead of ticking the run.
  tiles.addEventListener("mousedown", (event) => {
    if (event.shiftKey) event.preventDefault();
  });

  const columns = () => {
    const top = boxes[0].getBoundingClientRect().top;
    const next = boxes.findIndex((box) => box.getBoundingClientRect().top > top + 1);
    return next < 0 ? boxes.length : next;
  };

  tiles.addEventListener("keydown", (event) => {
    const at = boxes.indexOf(event.target);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const isTurned = getComputedStyle(tiles).direction === "rtl";
    const step = { ArrowLeft: isTurned ? 1 : -1, ArrowRight: isTurned ? -1 : 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
    if (event.key === "Enter") {
      document.getElementById("name").focus();
      event.preventDefault();
    } else if (step && boxes[at + step]) {
      boxes[at + step].focus();
      event.preventDefault();
    }
  });

  for (const each of document.querySelectorAll(".scripted")) each.hidden = false;
  count();
}
