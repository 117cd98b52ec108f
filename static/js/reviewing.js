// The grid: mark the wrong ones, accept the rest with one key. Marks outlive a failed request and a reload.
//
// Without this module the boxes and the button are a plain form.

import { keyHelp, plainKey, showHelpButton } from "./keys.js";
import { send } from "./sending.js";
import { showWaiting } from "./tabs.js";

// A key pressed twice must not accept a screenful that nobody has seen.
const LOOK_AT_LEAST_MS = 600;

const openHelp = keyHelp();
const dialog = document.getElementById("other-classes");
const names = new Map([...dialog.querySelectorAll(".choice")].map((button) => [classOf(button), button.dataset.name]));
const page = { address: location.href, user: document.getElementById("grid").dataset.user };
const who = document.getElementById("grid").dataset.who;
const store = `winnow:marks:${location.pathname}`;
let shownSince = -Infinity; // the page that was asked for is no surprise
let isSending = false;
let isUndoWaiting = false; // asked for while a decision was still on its way

const tiles = () => [...document.querySelectorAll(".tile")];
const boxOf = (tile) => tile.querySelector(".mark");
const focusedTile = () => document.activeElement?.closest?.(".tile");

function classOf(button) {
  return button.value.split(":")[1];
}

// ---- seeing ---------------------------------------------------------------------------------------------------

// Only what has been on the screen, clear of the bar below, is accepted; the key turns the page until all has been.
const unseen = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && unseen.delete(entry.target)) observer.unobserve(entry.target);
  }
  count();
}, { rootMargin: "0px 0px -72px 0px", threshold: 0.6 });

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

// ---- marks ----------------------------------------------------------------------------------------------------

/** verdict: "right", "wrong", or the id of the class it is instead. */
function judge(tile, verdict) {
  const isOwn = verdict === document.getElementById("tiles").dataset.class;
  const other = !isOwn && names.has(verdict) ? verdict : null;
  boxOf(tile).checked = verdict === "wrong" || other !== null;
  tile.querySelector("[name=corrected]")?.remove();
  if (other) {
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "corrected", value: `${tile.dataset.proposal}:${other}` });
    tile.append(field);
  }
  show(tile, other);
  keepMarks();
}

function show(tile, other) {
  const verdict = tile.querySelector(".verdict");
  verdict.dataset.plain ??= verdict.textContent;
  verdict.textContent = other ? names.get(other) : verdict.dataset.plain;
  tile.classList.toggle("corrected", Boolean(other));
  tile.querySelector(".which").hidden = !boxOf(tile).checked;
  count();
}

function count() {
  const all = tiles();
  const wrong = all.filter((tile) => boxOf(tile).checked).length;
  const text = document.getElementById("accept-text");
  if (!text) return;
  if (unseen.size) {
    text.textContent = `See ${unseen.size} more`;
    return;
  }
  const corrected = document.querySelectorAll(".tile.corrected").length;
  const parts = [`Accept ${all.length - wrong}`];
  if (wrong - corrected) parts.push(`send ${wrong - corrected} back`);
  if (corrected) parts.push(`correct ${corrected}`);
  text.textContent = parts.join(", ");
}

function keepMarks() {
  const marks = {};
  for (const tile of tiles()) {
    const other = tile.querySelector("[name=corrected]")?.value.split(":")[1];
    if (boxOf(tile).checked) marks[tile.dataset.proposal] = other ?? "wrong";
  }
  try {
    sessionStorage.setItem(store, JSON.stringify({ ...readMarks(), ...dropped(), ...marks }));
  } catch { /* refused: the marks live as long as the page */ }
}

// What is on this screen and not marked any more.
const dropped = () => Object.fromEntries(tiles().map((tile) => [tile.dataset.proposal, undefined]));

function readMarks() {
  try {
    return JSON.parse(sessionStorage.getItem(store)) ?? {};
  } catch {
    return {};
  }
}

// ---- sending --------------------------------------------------------------------------------------------------

async function submit(form, { isDecision }) {
  if (isSending) return;
  if (isDecision && performance.now() - shownSince < LOOK_AT_LEAST_MS) return;
  if (isDecision && unseen.size) return turnPage();
  const loading = isDecision ? [...form.querySelectorAll(".tile img")].filter((picture) => !picture.complete).length : 0;
  if (loading) return notify(`${loading} of the images are still loading; nobody has seen them yet.`);
  isSending = true;
  form.classList.add("sending");
  const result = await send(form.action, new URLSearchParams(new FormData(form)), page);
  isSending = false;
  form.classList.remove("sending");
  if (!result.part) {
    isUndoWaiting = false;
    return notify(explain(result));
  }
  document.getElementById("notices").replaceChildren();
  if (result.outcome === "done" && isDecision) forget();
  document.getElementById("grid").replaceWith(document.adoptNode(result.part.getElementById("grid")));
  showWaiting(document.getElementById("grid").dataset.waiting);
  setUp();
  shownSince = performance.now();
  window.scrollTo({ top: 0 });
  document.getElementById("said").textContent = document.getElementById("outcome").textContent.replace(/\s+/g, " ").trim();
  if (isUndoWaiting) takeBack();
}

function forget() {
  try {
    sessionStorage.setItem(store, JSON.stringify({ ...readMarks(), ...dropped() }));
  } catch { /* refused: there was nothing */ }
}

function explain(result) {
  switch (result.outcome) {
    case "offline": return "Nothing was saved: the server does not answer. Your marks are kept; accept again in a moment.";
    case "trouble": return `Nothing was saved: the server has a problem (${result.status}). Your marks are kept; accept again in a moment.`;
    case "signed-out": return "Nothing was saved: you are signed out. Sign in again in another tab, then accept again here; your marks are kept.";
    case "other-user": return `Nothing was saved: ${result.who} is signed in in this browser now. Sign in as ${who} again, then accept again.`;
    default: return "Nothing was saved: the server says that you may not review here any more. Ask an owner of the project.";
  }
}

function notify(text) {
  const note = document.createElement("p");
  note.className = "notice warning";
  note.textContent = text;
  document.getElementById("notices").replaceChildren(note);
}

// ---- moving ---------------------------------------------------------------------------------------------------

function focus(tile) {
  for (const each of tiles()) boxOf(each).tabIndex = each === tile ? 0 : -1;
  boxOf(tile).focus();
}

function move(key) {
  const all = tiles();
  if (!all.length) return;
  const now = all.indexOf(focusedTile());
  if (now < 0) return focus(all.find((tile) => boxOf(tile).tabIndex === 0) ?? all[0]);
  const top = all[0].offsetTop;
  const columns = all.findIndex((tile) => tile.offsetTop > top);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  let next = now + step;
  if (key === "Home") next = 0;
  if (key === "End") next = all.length - 1;
  // A row of its own only, when all tiles fit in one.
  if (columns < 0 && (key === "ArrowUp" || key === "ArrowDown")) return;
  if (key === "ArrowDown" && next >= all.length && Math.floor(now / columns) < Math.floor((all.length - 1) / columns)) next = all.length - 1;
  if (all[next]) focus(all[next]);
}

document.addEventListener("keydown", (event) => {
  const key = plainKey(event);
  // Holding an arrow down moves on; nothing else repeats.
  const arrow = /^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key);
  if (arrow && !event.ctrlKey && !event.metaKey && !event.altKey && !dialog.open && (focusedTile() || event.key.startsWith("Arrow"))) {
    if (event.target.closest?.("dialog, textarea, select, input:not(.mark)")) return;
    move(event.key);
    event.preventDefault();
    return;
  }
  if (key === null) return;
  const decisions = document.getElementById("decisions");
  const tile = focusedTile();
  if (key === "?") openHelp();
  else if (key === "a" || (key === "Enter" && !event.target.closest("a, button, summary"))) {
    if (decisions) submit(decisions, { isDecision: true });
  } else if (key === "z") takeBack();
  else if (key === "x" && tile) judge(tile, boxOf(tile).checked ? "right" : "wrong");
  else if (tile && key.length === 1) {
    const choice = dialog.querySelector(`.choice[data-key="${CSS.escape(key)}"]`);
    if (!choice) return;
    judge(tile, classOf(choice));
  } else return;
  event.preventDefault();
});

function takeBack() {
  isUndoWaiting = isSending;
  const form = document.getElementById("undo");
  if (form?.querySelector("button")) submit(form, { isDecision: false });
}

// ---- input ----------------------------------------------------------------------------------------------------

document.addEventListener("change", (event) => {
  const tile = event.target.closest?.(".tile");
  if (tile && event.target === boxOf(tile)) judge(tile, boxOf(tile).checked ? "wrong" : "right");
});

document.addEventListener("focusin", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) for (const each of tiles()) boxOf(each).tabIndex = each === tile ? 0 : -1;
});

document.addEventListener("submit", (event) => {
  if (event.target.id !== "decisions" && event.target.id !== "undo") return;
  event.preventDefault();
  submit(event.target, { isDecision: event.target.id === "decisions" });
});

let asked = null; // the tile the dialog is about
const inOrder = [...dialog.querySelectorAll(".choice")];

// The classes listed for the tile come first, likeliest first; but not the one it was said not to be.
function listFirst(tile) {
  const own = document.getElementById("tiles").dataset.class;
  const listed = (tile.dataset.listed ?? "").split(" ").filter((id) => id && id !== own);
  const first = listed.map((id) => inOrder.find((button) => classOf(button) === id)).filter(Boolean);
  for (const button of inOrder) button.classList.toggle("listed", first.includes(button));
  inOrder[0]?.parentElement.append(...first, ...inOrder.filter((button) => !first.includes(button)));
}

document.addEventListener("click", (event) => {
  const which = event.target.closest(".which");
  if (which) {
    asked = which.closest(".tile");
    listFirst(asked);
    dialog.showModal();
  }
  const choice = event.target.closest("#other-classes .choice");
  if (choice) {
    dialog.close();
    judge(asked, classOf(choice));
    focus(asked);
  }
  if (event.target === dialog) dialog.close();
});

dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  const choice = event.key.length === 1 && dialog.querySelector(`.choice[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (choice) choice.click();
});

const find = document.getElementById("find");
if (find) {
  find.hidden = false;
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    for (const button of dialog.querySelectorAll(".choice")) button.hidden = !button.dataset.name.toLowerCase().includes(wanted);
  });
}

function setUp() {
  const marks = readMarks();
  for (const [index, tile] of tiles().entries()) {
    boxOf(tile).tabIndex = index ? -1 : 0;
    const verdict = marks[tile.dataset.proposal];
    if (verdict) judge(tile, verdict);
    else show(tile, null);
  }
  watchTiles();
  showHelpButton();
  for (const hint of document.querySelectorAll(".scripted")) hint.hidden = false;
  count();
}

setUp();
