// The grid: mark the wrong ones, accept the rest with one key. Wires keys, clicks and the server to the tiles.
//
// Without this module the boxes and the buttons are a plain form.

import { keyHelp, plainKey, showHelpButton } from "./keys.js";
import "./review_dragging.js";
import { dropWhatDoesNotFit, rememberFit, resize } from "./review_fit.js";
import { bringBack, classOf, forget, judge, stepBack, verdictOf } from "./review_marks.js";
import { boxOf, focus, focusedTile, keepInOrder, target, tiles } from "./review_moving.js";
import { fetchAhead, forgetAhead, gridAt } from "./review_screens.js";
import { clear, hasSelection, isSelected, selectAll, selectRun, selected, setAnchor, targets } from "./review_selecting.js";
import { send } from "./sending.js";
import { showWaiting } from "./tabs.js";
import { gettext, interpolate } from "./words.js";

// A key pressed twice must not accept a screenful that nobody has seen.
const LOOK_AT_LEAST_MS = 600;

const openHelp = keyHelp();
const dialog = document.getElementById("other-classes");
const grid = () => document.getElementById("grid");
const page = { address: location.href, user: grid().dataset.user };
const { who } = grid().dataset;
let shownSince = -Infinity; // the page that was asked for is no surprise
let isSending = false;
let isUndoWaiting = false; // asked for while a decision was still on its way

// ---- seeing ---------------------------------------------------------------------------------------------------

// Only what has been on the screen, clear of the bar below, is accepted; the key turns the page until all has been.
const unseen = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && unseen.delete(entry.target)) observer.unobserve(entry.target);
  }
  count();
}, { rootMargin: "0px 0px -64px 0px", threshold: 0.6 });

function watchTiles() {
  observer.disconnect();
  unseen.clear();
  for (const tile of tiles()) {
    unseen.add(tile);
    observer.observe(tile);
  }
}

function turnPage() {
  const next = tiles().find((tile) => unseen.has(tile));
  next.scrollIntoView({ block: "start", behavior: "instant" });
  shownSince = performance.now();
}

// ---- saying ---------------------------------------------------------------------------------------------------

/** What the button below does with the screen as it is marked now. */
function count() {
  const text = document.getElementById("accept-text");
  if (!text) return;
  if (unseen.size) {
    text.textContent = interpolate(gettext("See %(n)s more"), { n: unseen.size });
    return;
  }
  const n = { right: 0, wrong: 0, left: 0, corrected: 0 };
  for (const tile of tiles()) n[verdictOf(tile) in n ? verdictOf(tile) : "corrected"] += 1;
  const isLabels = grid().dataset.shows === "labels";
  const words = isLabels
    ? { right: gettext("%(n)s right"), wrong: gettext("flag %(n)s"), corrected: gettext("correct %(n)s"), left: gettext("leave %(n)s") }
    : { right: gettext("Accept %(n)s"), wrong: gettext("send %(n)s back"), corrected: gettext("correct %(n)s"), left: gettext("leave %(n)s") };
  const parts = ["right", "wrong", "corrected", "left"].filter((kind) => n[kind] || kind === "right");
  text.textContent = parts.map((kind) => interpolate(words[kind], { n: n[kind] })).join(", ");
}

function say(some, verdict) {
  judge(some, verdict);
  count();
}

/** Mark all of them, or, where all are, none. */
function toggleVerdict(some, verdict) {
  if (!some.length) return;
  say(some, some.every((tile) => verdictOf(tile) === verdict) ? "right" : verdict);
  clear();
}

async function flag(some) {
  const raised = some.every((tile) => tile.classList.contains("flagged")) ? "0" : "1";
  clear();
  for (const tile of some) {
    const result = await send(`${location.pathname.replace(/review\/$/, "")}items/${tile.dataset.item}/flag/`, { raised }, page);
    if (result.outcome !== "done") return notify(explain(result));
    tile.classList.toggle("flagged", raised === "1");
  }
  const text = raised === "1" ? gettext("Flagged: %(n)s") : gettext("Flag lowered: %(n)s");
  document.getElementById("said").textContent = interpolate(text, { n: some.length });
}

function showLike(some) {
  if (some.length !== 1) return;
  const show = grid().dataset.shows === "labels" ? "show=labels&" : "";
  location.assign(`?${show}like=${some[0].dataset.item}`);
}

// ---- sending --------------------------------------------------------------------------------------------------

async function submit(form, { isDecision }) {
  if (isSending) return;
  if (isDecision && performance.now() - shownSince < LOOK_AT_LEAST_MS) return;
  if (isDecision && unseen.size) return turnPage();
  const loading = isDecision ? [...form.querySelectorAll(".tile img")].filter((picture) => !picture.complete).length : 0;
  if (loading) return notify(interpolate(gettext("%(n)s of the images are still loading; nobody has seen them yet."), { n: loading }));
  if (isDecision && tiles().every((tile) => verdictOf(tile) === "left")) return go("screen-next");
  isSending = true;
  form.classList.add("sending");
  const result = await send(form.action, new URLSearchParams(new FormData(form)), page);
  isSending = false;
  form.classList.remove("sending");
  if (!result.part) {
    isUndoWaiting = false;
    return notify(explain(result));
  }
  if (result.outcome === "done" && isDecision) forget();
  forgetAhead();
  swap(result.part);
  history.replaceState(null, "", `?${grid().dataset.place}`);
  document.getElementById("said").textContent = document.getElementById("outcome").textContent.replace(/\s+/g, " ").trim();
  if (isUndoWaiting) takeBack();
}

function swap(part) {
  document.getElementById("notices").replaceChildren();
  clear();
  grid().replaceWith(document.adoptNode(part.getElementById("grid")));
  showWaiting(grid().dataset.waiting);
  setUp();
  shownSince = performance.now();
  window.scrollTo({ top: 0, behavior: "instant" });
}

/** To the screen a link leads to, without deciding anything. */
async function go(id) {
  const href = document.getElementById(id)?.getAttribute("href");
  if (!href || isSending) return;
  if (await goTo(href)) history.pushState(null, "", href);
}

async function goTo(href) {
  isSending = true;
  const result = await gridAt(href);
  isSending = false;
  if (result.part?.getElementById("grid")) swap(result.part);
  else notify(explain(result));
  return Boolean(result.part);
}

window.addEventListener("popstate", () => goTo(location.search || "?"));

function explain(result) {
  switch (result.outcome) {
    case "offline": return gettext("Nothing was saved: the server does not answer. Your marks are kept; accept again in a moment.");
    case "trouble": return interpolate(gettext("Nothing was saved: the server has a problem (%(status)s). Your marks are kept; accept again in a moment."), result);
    case "signed-out": return gettext("Nothing was saved: you are signed out. Sign in again in another tab, then accept again here; your marks are kept.");
    case "other-user": return interpolate(gettext("Nothing was saved: %(other)s is signed in in this browser now. Sign in as %(who)s again, then accept again."), { other: result.who, who });
    default: return gettext("Nothing was saved: the server says that you may not review here any more. Ask an owner of the project.");
  }
}

function notify(text) {
  const note = document.createElement("p");
  note.className = "notice warning";
  note.textContent = text;
  document.getElementById("notices").replaceChildren(note);
}

/** The last step on this screen, else the last screenful. */
function takeBack() {
  isUndoWaiting = isSending;
  if (isSending) return;
  if (stepBack()) return count();
  const form = document.getElementById("undo");
  if (form?.querySelector("button")) submit(form, { isDecision: false });
}

// ---- keys -----------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  // Holding an arrow down moves on; nothing else repeats.
  const arrow = /^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key);
  if (arrow && !event.ctrlKey && !event.metaKey && !event.altKey && (focusedTile() || event.key.startsWith("Arrow"))) {
    if (event.target.closest?.("textarea, select, summary, input:not(.mark)")) return;
    move(event.key, event.shiftKey);
    event.preventDefault();
    return;
  }
  if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey) && !event.target.closest?.("input:not(.mark), textarea")) {
    if (!tiles().length) return;
    selectAll();
    event.preventDefault();
    return;
  }
  const key = plainKey(event);
  if (key !== null && press(key, event)) event.preventDefault();
});

function move(key, isRun) {
  const next = target(key);
  if (!next) return;
  if (isRun) {
    if (!hasSelection()) setAnchor(focusedTile() ?? next);
    selectRun(next);
  }
  focus(next);
}

/** Do what the key is for; whether it is for anything. */
function press(key, event) {
  const some = targets();
  const decisions = document.getElementById("decisions");
  if (key === "?") openHelp();
  else if (key === "a" || (key === "Enter" && !event.target.closest("a, button, summary, select"))) {
    if (decisions) submit(decisions, { isDecision: true });
  } else if (key === "z") takeBack();
  else if (key === ".") go("screen-next");
  else if (key === ",") go("screen-before");
  else if (key === "Escape") return clear();
  else if (!some.length) return false;
  else if (key === "x") toggleVerdict(some, "wrong");
  else if (key === " " && hasSelection()) toggleVerdict(some, "wrong");
  else if (key === "-") toggleVerdict(some, "left");
  else if (key === "/") ask(some);
  else if (key === "f") flag(some);
  else if (key === "m") showLike(some);
  else {
    const choice = key.length === 1 && dialog.querySelector(`.choice[data-key="${CSS.escape(key)}"]`);
    if (!choice) return false;
    say(some, classOf(choice));
    clear();
  }
  return true;
}

// ---- clicks ---------------------------------------------------------------------------------------------------

document.addEventListener("change", (event) => {
  const tile = event.target.closest?.(".tile");
  if (!tile || event.target !== boxOf(tile)) return;
  const verdict = boxOf(tile).checked ? "wrong" : "right";
  // The box has changed already; what it said before is what a step back brings.
  boxOf(tile).checked = !boxOf(tile).checked;
  const isBulk = isSelected(tile);
  say(isBulk ? selected() : [tile], verdict);
  if (isBulk) clear();
});

document.addEventListener("focusin", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) keepInOrder(tile);
});

document.addEventListener("submit", (event) => {
  if (event.target.id === "filter-form") return dropBlanks(event.target);
  if (event.target.id !== "decisions" && event.target.id !== "undo") return;
  event.preventDefault();
  submit(event.target, { isDecision: event.target.id === "decisions" });
});

// An address of its own words only is one that a person can read.
function dropBlanks(form) {
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
  }, { once: true });
}

document.addEventListener("click", (event) => {
  const screen = event.target.closest("#screen-next, #screen-before");
  if (screen && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    go(screen.id);
  }
  const act = event.target.closest("[data-act]")?.dataset.act;
  if (act) perform(act);
  const which = event.target.closest(".which");
  if (which) ask(isSelected(which.closest(".tile")) ? selected() : [which.closest(".tile")]);
  const choice = event.target.closest("#other-classes .choice");
  if (choice) choose(choice);
  if (event.target === dialog) dialog.close();
  if (event.target.closest("#smaller")) changeSize(-1);
  if (event.target.closest("#larger")) changeSize(1);
});

function perform(act) {
  const some = selected();
  if (act === "wrong") toggleVerdict(some, "wrong");
  else if (act === "leave") toggleVerdict(some, "left");
  else if (act === "which") ask(some);
  else if (act === "flag") flag(some);
  else if (act === "like") showLike(some);
  else clear();
}

async function changeSize(by) {
  if (isSending || !resize(by)) return;
  rememberFit();
  await goTo(`?${grid().dataset.place}`);
}

// ---- another class --------------------------------------------------------------------------------------------

const SHOWN_IN_DIALOG = 8;
let asked = []; // the tiles the dialog is about
const inOrder = [...dialog.querySelectorAll(".choice")];

function ask(some) {
  if (!some.length) return;
  asked = some;
  listFirst(asked[0]);
  const pictures = asked.slice(0, SHOWN_IN_DIALOG).map((tile) => tile.querySelector("img.picture").cloneNode());
  document.getElementById("other-pictures").replaceChildren(...pictures);
  dialog.showModal();
}

// The classes listed for the tile come first, likeliest first; but not the one it was said not to be.
function listFirst(tile) {
  const listed = (tile.dataset.listed ?? "").split(" ").filter((id) => id && id !== tile.dataset.class);
  const first = listed.map((id) => inOrder.find((button) => classOf(button) === id)).filter(Boolean);
  for (const button of inOrder) button.classList.toggle("listed", first.includes(button));
  inOrder[0]?.parentElement.append(...first, ...inOrder.filter((button) => !first.includes(button)));
}

function choose(choice) {
  dialog.close();
  say(asked, classOf(choice));
  clear();
  focus(asked[0]);
}

dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  const choice = event.key.length === 1 && dialog.querySelector(`.choice[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!choice) return;
  event.preventDefault(); // the same key must not reach the page behind the dialog
  choice.click();
});

const find = document.getElementById("find");
if (find) {
  find.hidden = false;
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    for (const button of dialog.querySelectorAll(".choice")) button.hidden = !button.dataset.name.toLowerCase().includes(wanted);
  });
}

// ---- a new screen ---------------------------------------------------------------------------------------------

function setUp() {
  for (const [index, tile] of tiles().entries()) {
    boxOf(tile).tabIndex = index ? -1 : 0;
    tile.querySelector(".pick").hidden = false;
  }
  bringBack();
  watchTiles();
  showHelpButton();
  for (const hint of document.querySelectorAll(".scripted")) hint.hidden = false;
  count();
  setTimeout(fetchAhead, 400); // this screen's own pictures first
}

dropWhatDoesNotFit();
setUp();
rememberFit();
let settle = null;
window.addEventListener("resize", () => {
  clearTimeout(settle);
  settle = setTimeout(rememberFit, 300);
});
