// The class guide beside the image: `g` or its button opens and closes it, and the browser remembers which.
//
// Where there is room it is a panel and the keys go on working; where there is none, a sheet over the page.

import { plainKey } from "./keys.js";
import { gettext } from "./words.js";

const REMEMBERED = "winnow.guide";
const wide = matchMedia("(min-width: 1100px)");
const panel = document.getElementById("guide");
const sheet = document.getElementById("guide-sheet");
const body = document.getElementById("guide-body");
const button = document.getElementById("guide-button");

const isOpen = () => !panel.hidden;

/** Kept where it may be: a browser that refuses storage opens the page with the guide closed. */
function remember(open) {
  try {
    localStorage.setItem(REMEMBERED, open ? "open" : "closed");
  } catch { /* nothing is lost but the memory */ }
}

function remembered() {
  try {
    return localStorage.getItem(REMEMBERED) === "open";
  } catch {
    return false;
  }
}

/** Fetched each time it opens, because classes change while people label; what was there stays until then. */
async function fill() {
  if (!body.childElementCount) say(gettext("Loading the class guide…"));
  try {
    const answer = await fetch(panel.dataset.src, { headers: { "HX-Request": "true" }, redirect: "manual" });
    if (!answer.ok) throw new Error(String(answer.status));
    const part = new DOMParser().parseFromString(await answer.text(), "text/html");
    body.replaceChildren(document.adoptNode(part.getElementById("guide-classes")));
  } catch {
    if (!body.querySelector("#guide-classes")) say(gettext("The class guide did not load. Close it and open it again."));
  }
}

function say(text) {
  const line = document.createElement("p");
  line.className = "muted";
  line.textContent = text;
  body.replaceChildren(line);
}

function open() {
  panel.hidden = false;
  if (!wide.matches) {
    sheet.append(panel);
    sheet.showModal();
  }
  show();
  fill();
}

function close() {
  if (sheet.open) sheet.close();
  panel.hidden = true;
  if (sheet.contains(panel)) sheet.before(panel);
  show();
}

function show() {
  button?.setAttribute("aria-expanded", String(isOpen()));
  document.documentElement.classList.toggle("with-guide", isOpen() && wide.matches);
}

function toggle() {
  const wasOpen = isOpen();
  if (wasOpen) close();
  else open();
  // A sheet covers the image: nobody wants it back by itself.
  if (wide.matches || wasOpen) remember(!wasOpen);
}

document.addEventListener("keydown", (event) => {
  const inSheet = sheet.open && event.key.toLowerCase() === "g" && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (!inSheet && plainKey(event) !== "g") return;
  event.preventDefault();
  toggle();
});
document.addEventListener("click", (event) => {
  if (event.target.closest("#guide-button, #guide-close")) {
    event.preventDefault();
    toggle();
    if (!isOpen()) button?.focus();
  } else if (event.target === sheet) {
    close();
  }
});
sheet.addEventListener("close", () => isOpen() && close());
wide.addEventListener("change", () => isOpen() && close());

if (button) {
  button.setAttribute("role", "button");
  button.setAttribute("aria-controls", "guide");
  button.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    button.click();
  });
}
show();
if (wide.matches && remembered()) open();
