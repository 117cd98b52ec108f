// The list of classes: a class is dragged to another place, or moved by its arrows without a new page.

import { gettext, interpolate } from "./words.js";

const list = document.getElementById("class-rows");
const form = document.getElementById("order");
const said = document.getElementById("order-said");
const rows = () => [...list.children];
const nameOf = (row) => row.querySelector(".class-name").textContent;

/** Put the row where the server is told that it is; a refusal shows the page as it stands there. */
async function place(row, before) {
  if (row.nextElementSibling === before || row === before) return;
  list.insertBefore(row, before);
  showEnds();
  await tell(row);
}

async function tell(row) {
  const body = new URLSearchParams(new FormData(form));
  body.set("do", "place");
  body.set("class", row.dataset.class);
  body.set("before", row.nextElementSibling?.dataset.class ?? "");
  said.textContent = interpolate(gettext("%(name)s is number %(place)s of %(n)s"), {
    name: nameOf(row), place: rows().indexOf(row) + 1, n: rows().length,
  });
  let answer;
  try {
    answer = await fetch(form.action, { method: "POST", body, redirect: "manual", headers: { "HX-Request": "true" } });
  } catch {
    said.textContent = gettext("The server does not answer; the order was not saved.");
    return;
  }
  if (answer.status !== 204) location.reload();
}

function showEnds() {
  const all = rows();
  for (const row of all) {
    row.querySelector("[name=up]").disabled = row === all[0];
    row.querySelector("[name=down]").disabled = row === all.at(-1);
  }
}

// ---- by the arrows --------------------------------------------------------------------------------------------

list?.addEventListener("click", (event) => {
  const button = event.target.closest("[name=up], [name=down]");
  if (!button) return;
  event.preventDefault();
  const row = button.closest("li");
  const isUp = button.name === "up";
  const before = isUp ? row.previousElementSibling : row.nextElementSibling?.nextElementSibling ?? null;
  place(row, before);
  // At the end its own arrow is of no use; the other one is beside it.
  (button.disabled ? row.querySelector(isUp ? "[name=down]" : "[name=up]") : button).focus();
});

// ---- by hand --------------------------------------------------------------------------------------------------

let held = null; // the row in hand, and what came behind it before

list?.addEventListener("pointerdown", (event) => {
  const grip = event.target.closest(".grip");
  if (!grip || event.button) return;
  event.preventDefault();
  const row = grip.closest("li");
  held = { row, behind: row.nextElementSibling };
  grip.setPointerCapture(event.pointerId);
  row.classList.add("held");
});

list?.addEventListener("pointermove", (event) => {
  if (!held) return;
  const before = rows().find((row) => {
    const box = row.getBoundingClientRect();
    return row !== held.row && event.clientY < box.top + box.height / 2;
  });
  if (held.row.nextElementSibling !== (before ?? null)) list.insertBefore(held.row, before ?? null);
  // Near the edge of the window the page moves along.
  if (event.clientY < 60) scrollBy(0, -12);
  else if (event.clientY > innerHeight - 60) scrollBy(0, 12);
});

function letGo(isKept) {
  if (!held) return;
  const { row, behind } = held;
  held = null;
  row.classList.remove("held");
  if (!isKept) list.insertBefore(row, behind);
  showEnds();
  if (isKept && row.nextElementSibling !== behind) tell(row);
}

list?.addEventListener("pointerup", () => letGo(true));
list?.addEventListener("pointercancel", () => letGo(false));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") letGo(false);
});

if (list) {
  list.classList.add("draggable");
  for (const hint of document.querySelectorAll(".with-drag")) hint.hidden = false;
}
