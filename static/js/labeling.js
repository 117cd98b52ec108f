// The desk: one image at a time, the next ones already decoded. An answer shows its effect at once and travels behind.
//
// Without this module the same form posts and the page comes back with the next image.

import { keyHelp, plainKey } from "./keys.js";
import { Outbox } from "./outbox.js";
import { look, newUuid, send } from "./sending.js";
import { Stopwatch } from "./stopwatch.js";
import { showWaiting } from "./tabs.js";
import { zoom, zoomByDoubleClick } from "./zoom.js";

const RENEW_AFTER_MS = 60_000;
const LATE_MS = 1500; // an answer on its way for longer is worth a word
const UNSURE_MS = 400; // after the image changed by itself, a key may have been meant for the one before
const TOAST_MS = 9000;
const UNDO_DEPTH = 30;
const LOOK_AGAIN_MS = 500;

const desk = document.getElementById("desk");
const deck = document.getElementById("deck");
const form = document.getElementById("answer");
const answers = document.getElementById("answers");
const waiting = document.getElementById("waiting");
const undoButton = document.getElementById("undo");
const page = { address: desk.dataset.label, user: desk.dataset.user };

const stopwatch = new Stopwatch();
const openHelp = keyHelp();
const given = []; // what this tab answered, newest last: {uuid, card, name}
let unsureUntil = 0;
let lastContact = Date.now();
let lastActivity = 0;
let isTakingBack = false;
let turns = 0; // counts answers given and replies received: a reply from an earlier turn says nothing true any more

const outbox = new Outbox(`${desk.dataset.project}:${desk.dataset.user}`, {
  post: (entry) => send(entry.undo ? desk.dataset.undo : desk.dataset.label, fieldsOf(entry), page),
  settled,
  changed(another) {
    if (another?.item && !another.undo) dropCard(another.item, "This image was answered in another tab.");
    showUnsaved();
    topUp();
  },
});

function fieldsOf({ uuid, item, answer, milliseconds }) {
  return answer ? { uuid, item, answer, milliseconds } : { uuid };
}

// ---- cards ----------------------------------------------------------------------------------------------------

const cards = () => [...deck.querySelectorAll(".card")];
const front = () => deck.querySelector("[data-front]");
const cardOf = (item) => deck.querySelector(`.card[data-item="${item}"]`);

/** What comes next, behind the image on the desk and those that are due already: a check that is due comes before it. */
const behindDue = () => cards().slice(1).find((card) => !("due" in card.dataset)) ?? waiting;

/** Load and decode a card's picture; resolves when it can be shown, or when it is clear that it cannot. */
function prepare(card) {
  const picture = card.querySelector("img");
  if (!picture) {
    card.dataset.ready = "";
    return Promise.resolve();
  }
  return picture.decode().then(() => (card.dataset.ready = ""), () => showBroken(card, picture));
}

function showBroken(card, picture) {
  card.dataset.ready = "";
  card.dataset.broken = "";
  if (card.querySelector(".broken")) return;
  const note = document.createElement("p");
  note.className = "broken";
  const again = document.createElement("button");
  again.type = "button";
  again.className = "button";
  again.textContent = "Load again";
  again.addEventListener("click", async () => {
    picture.src = picture.getAttribute("src");
    await picture.decode().then(() => { delete card.dataset.broken; note.remove(); }, () => {});
  });
  note.append("This image did not load. ", again);
  card.querySelector(".stage").append(note);
}

/** Bring the first card to the front, once its picture is there; say what is awaited until then. */
function showFront() {
  const [first] = cards();
  for (const card of cards()) if (card !== first) delete card.dataset.front;
  const isReady = first && "ready" in first.dataset;
  if (isReady && !("front" in first.dataset)) {
    first.dataset.front = "";
    form.elements.item.value = first.dataset.item;
    stopwatch.start();
  } else if (first && !isReady) {
    prepare(first).then(showFront);
  }
  const isDone = !first && !outbox.entries().length && !isTakingBack && document.getElementById("empty");
  waiting.hidden = Boolean(isReady || isDone);
  if (!waiting.hidden) waiting.textContent = first ? "Loading the image…" : waitingText();
  answers.hidden = Boolean(isDone);
  answers.disabled = !isReady;
  for (const button of form.querySelectorAll(".page-answers [name=answer]")) {
    button.hidden = Boolean(isDone);
    button.disabled = !isReady;
  }
}

function waitingText() {
  if (isTakingBack) return "Taking the last answer back…";
  return outbox.obstacle ? "The next images come once your answers are saved." : "Fetching the next image…";
}

function dropCard(item, why) {
  const card = cardOf(item);
  if (!card) return;
  const wasFront = card === front();
  card.remove();
  if (wasFront) {
    unsureUntil = Date.now() + UNSURE_MS;
    say(why);
  }
  showFront();
}

// ---- answering ------------------------------------------------------------------------------------------------

function give(answer, name) {
  const card = front();
  if (!card || isTakingBack || Date.now() < unsureUntil) return;
  if ("broken" in card.dataset && answer !== "skip") return notify("This image did not load. Load it again, or skip it.", true);
  hideNotice();
  turns += 1;
  const entry = { uuid: newUuid(), item: card.dataset.item, answer, milliseconds: stopwatch.read() };
  card.remove();
  delete card.dataset.front;
  delete card.querySelector(".stage")?.dataset.zoom;
  given.push({ uuid: entry.uuid, card, name });
  if (given.length > UNDO_DEPTH) given.shift();
  showUndo();
  outbox.add(entry);
  showFront();
  say(`${name}. ${front() ? `Next: ${front().querySelector(".why").textContent}` : ""}`);
}

async function takeBack() {
  if (isTakingBack) return;
  hideNotice();
  const last = given.pop();
  showUndo();
  if (last) {
    // At once: the card comes back, and the server is told in its turn.
    deck.prepend(last.card);
    if (cards()[1]) delete cards()[1].dataset.front;
    outbox.add({ uuid: newUuid(), undo: true, undoes: last.uuid, item: last.card.dataset.item });
    showFront();
    say(`${last.name} taken back.`);
    return;
  }
  if (outbox.entries().length) return notify("Your earlier answers are not saved yet; they can be taken back after that.", true);
  // An answer from before this page was opened: only the server knows which.
  isTakingBack = true;
  const shown = front();
  if (shown) delete shown.dataset.front;
  waiting.hidden = false;
  waiting.textContent = waitingText();
  const result = await send(desk.dataset.undo, { uuid: newUuid() }, page);
  isTakingBack = false;
  if (result.part) receive(result.part, result.outcome);
  else notify(`Nothing was taken back. ${explain(result)}`, true);
  showFront();
}

function settled(entry, result) {
  if (result.outcome === "refused") {
    const index = given.findIndex((each) => each.uuid === entry.uuid);
    if (index >= 0) given.splice(index, 1);
    showUndo();
  }
  receive(result.part, result.outcome);
}

/** Take in what a POST answered: the images held now, the progress, and what went wrong. */
function receive(part, outcome) {
  lastContact = Date.now();
  turns += 1;
  const held = [...part.querySelectorAll(".card")].map((card) => document.adoptNode(card));
  const pending = outbox.entries();
  const awaited = new Set(pending.map((entry) => entry.item));
  for (const card of held) {
    if (awaited.has(card.dataset.item) || cardOf(card.dataset.item)) continue;
    if ("returned" in card.dataset) deck.prepend(card);
    else deck.insertBefore(card, "due" in card.dataset ? behindDue() : waiting);
    prepare(card);
  }
  if (!pending.length) {
    // With nothing on its way, what was answered is exactly what this person holds.
    const items = new Set(held.map((card) => card.dataset.item));
    for (const card of cards()) {
      if (!items.has(card.dataset.item)) dropCard(card.dataset.item, "The image before was answered elsewhere, or your hold on it ran out.");
    }
  }
  document.getElementById("empty")?.remove();
  const empty = part.getElementById("empty");
  // There is work, but nothing came: the queue is being ranked anew this very moment.
  if (empty?.dataset.empty === "start" && !cards().length) setTimeout(topUp, LOOK_AGAIN_MS);
  else if (empty && !cards().length && !pending.length) deck.insertBefore(document.adoptNode(empty), waiting);
  const choices = part.getElementById("choices");
  if (choices) {
    document.getElementById("choices").replaceWith(document.adoptNode(choices));
    setUpFind();
  }
  takeProgress(part);
  const notice = part.getElementById("notice");
  if (notice) notify(notice.textContent, outcome === "refused");
  showFront();
  document.querySelector("#empty [autofocus]")?.focus();
}

/** Renew what is held and fetch what is missing. */
async function refresh() {
  if (outbox.entries().length || isTakingBack) return;
  lastContact = Date.now();
  const turn = turns;
  const result = await send(desk.dataset.renew, {}, page);
  if (turn !== turns) return;
  if (result.part) receive(result.part, result.outcome);
  else if (!cards().length) notify(explain(result), true);
}

function topUp() {
  // Another tab may have sent this one's answers, and got the next images.
  if (!cards().length && !document.getElementById("empty") && !outbox.entries().length) refresh();
}

async function start(startForm) {
  const button = startForm.querySelector("button");
  button.disabled = true;
  const result = await send(startForm.action, new URLSearchParams(new FormData(startForm)), page);
  button.disabled = false;
  if (result.part) receive(result.part, result.outcome);
  else notify(explain(result), true);
}

// ---- what the page says ---------------------------------------------------------------------------------------

function say(text) {
  document.getElementById("said").textContent = text;
}

function notify(text, isWarning) {
  const note = document.createElement("p");
  note.className = isWarning ? "notice warning" : "notice";
  note.textContent = text.charAt(0).toUpperCase() + text.slice(1);
  note.dataset.since = Date.now();
  document.getElementById("notices").replaceChildren(note);
}

function hideNotice() {
  const note = document.querySelector("#notices .notice");
  // It may have come up while the finger was already on its way down.
  if (note && Date.now() - (note.dataset.since ?? 0) > 2000) note.remove();
}

function showUndo() {
  const last = given.at(-1);
  undoButton.querySelector(".undo-what").textContent = last ? `“${last.name}”` : "";
}

function explain(result) {
  switch (result.outcome) {
    case "offline": return "The server does not answer. You can go on; trying again by itself.";
    case "trouble": return `The server has a problem (${result.status}). You can go on; trying again by itself.`;
    case "signed-out": return "You are signed out. Sign in again, then come back here.";
    case "other-user": return `${result.who} is signed in in this browser now. Sign in as ${desk.dataset.who} again, then come back here.`;
    default: return "The server says that you may not label here any more. Ask an owner of the project.";
  }
}

function showUnsaved() {
  const entries = outbox.entries();
  const isLate = entries.some((entry) => Date.now() - entry.at > LATE_MS);
  const box = document.getElementById("unsaved");
  box.hidden = !entries.length || !(outbox.obstacle || isLate);
  if (entries.length && box.hidden) setTimeout(showUnsaved, LATE_MS);
  if (box.hidden) return;
  const text = document.getElementById("unsaved-text");
  const kept = outbox.isForgetful ? "Keep this page open." : "Kept in this browser.";
  const why = outbox.obstacle ? `${explain(outbox.obstacle)} ${kept}` : "On the way.";
  const said = `${entries.length} not yet saved. ${why}`;
  if (text.dataset.said === said) return; // a screen reader would read it again
  text.dataset.said = said;
  text.textContent = `${said} `;
  if (outbox.obstacle && ["signed-out", "other-user"].includes(outbox.obstacle.outcome)) {
    const link = document.createElement("a");
    Object.assign(link, { href: desk.dataset.login, target: "_blank", rel: "opener", textContent: "Sign in" });
    text.append(link);
  }
}

// ---- the model ------------------------------------------------------------------------------------------------

let pollTimer = 0;
let polls = 0;

function takeProgress(part) {
  const fresh = part.getElementById("progress");
  if (!fresh) return;
  const stale = document.getElementById("progress");
  tellWhatChanged(stale.dataset, fresh.dataset, fresh.querySelector(".phase").textContent);
  stale.replaceWith(document.adoptNode(fresh));
  showWaiting(fresh.dataset.waiting);
  watchLearning();
}

function watchLearning() {
  clearTimeout(pollTimer);
  if (!document.getElementById("progress").dataset.learns) polls = 0;
  // Learning takes a second or two; somebody who waits for it should see it end.
  else pollTimer = setTimeout(poll, polls++ < 60 ? 1000 : 5000);
}

async function poll() {
  if (document.visibilityState === "hidden") {
    pollTimer = setTimeout(poll, 5000);
    return;
  }
  const result = await look(desk.dataset.label);
  if (result.part) takeProgress(result.part);
  else pollTimer = setTimeout(poll, 5000);
}

function tellWhatChanged(before, after, phase) {
  if (after.model === before.model || after.model === "0") return;
  const learnt = after.labels === "0" ? "compares images with the class names" : `learnt from ${after.labels} answers`;
  const lines = [`Model ${after.model} ${learnt}`];
  if (after.estimate && before.estimate && after.estimate !== before.estimate) {
    lines.push(`${before.estimate} → ${after.estimate} right on random checks, 95 % sure: ${after.interval}`);
  } else if (after.estimate) {
    lines.push(`${after.estimate} right on random checks, 95 % sure: ${after.interval}`);
  }
  lines.push(`The queue is ranked anew. ${phase}`);
  const toast = document.getElementById("toast");
  toast.replaceChildren(...lines.map((line, index) => {
    const element = document.createElement(index ? "span" : "strong");
    element.textContent = line;
    return element;
  }));
  toast.classList.add("shown");
  clearTimeout(tellWhatChanged.timer);
  tellWhatChanged.timer = setTimeout(() => toast.classList.remove("shown"), TOAST_MS);
}

// ---- input ----------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  const key = plainKey(event);
  if (key === null) return;
  if (key === "?") openHelp();
  else if (key === "z") takeBack();
  else if (key === "+" || key === "=") zoom(deck, 1);
  else if (key === "-") zoom(deck, -1);
  else if (key === "/") document.getElementById("find")?.focus();
  else {
    const button = form.querySelector(`[name=answer][data-key="${CSS.escape(key)}"]`);
    if (!button || button.disabled || answers.hidden) return;
    flash(button);
    give(button.value, button.dataset.name);
  }
  event.preventDefault();
});

function flash(button) {
  for (const each of form.querySelectorAll(".given")) each.classList.remove("given");
  button.classList.add("given");
  setTimeout(() => button.classList.remove("given"), 250);
}

document.addEventListener("submit", (event) => {
  const { target, submitter } = event;
  if (target === form) {
    event.preventDefault();
    if (submitter === undoButton) takeBack();
    else if (submitter?.name === "answer") give(submitter.value, submitter.dataset.name);
  } else if (target.action?.endsWith(desk.dataset.next)) {
    event.preventDefault();
    start(target);
  }
});

function setUpFind() {
  const find = document.getElementById("find");
  if (!find) return;
  find.hidden = false;
  const buttons = [...document.querySelectorAll("#choices .choice")];
  const narrow = () => {
    const wanted = find.value.trim().toLowerCase();
    for (const button of buttons) button.hidden = !button.dataset.name.toLowerCase().includes(wanted);
  };
  const clear = () => { find.value = ""; narrow(); find.blur(); };
  find.addEventListener("input", narrow);
  find.addEventListener("keydown", (event) => {
    if (event.key === "Escape") clear();
    if (event.key !== "Enter") return;
    event.preventDefault();
    const first = find.value.trim() && buttons.find((button) => !button.hidden);
    clear();
    if (first) give(first.value, first.dataset.name);
  });
}

for (const kind of ["pointermove", "pointerdown", "keydown"]) {
  document.addEventListener(kind, () => (lastActivity = Date.now()), { passive: true });
}
setInterval(() => {
  const isStale = Date.now() - lastContact > RENEW_AFTER_MS;
  if (isStale && lastActivity > lastContact && cards().length) refresh();
  const others = document.querySelector('#empty[data-empty="all_held"] form');
  topUp();
  if (isStale && others && document.visibilityState === "visible") start(others);
}, 10_000);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && cards().length && Date.now() - lastContact > RENEW_AFTER_MS) refresh();
});
window.addEventListener("pageshow", (event) => event.persisted && refresh());
window.addEventListener("beforeunload", (event) => outbox.isForgetful && event.preventDefault());

document.getElementById("retry").addEventListener("click", () => outbox.retry());
zoomByDoubleClick(deck);
setUpFind();
for (const card of cards()) {
  const kept = outbox.entries().findLast((entry) => entry.item === card.dataset.item);
  delete card.dataset.front;
  if (!kept || kept.undo) {
    prepare(card);
    continue;
  }
  // Answered before the page was loaded again, and still on its way.
  card.remove();
  prepare(card);
  const button = form.querySelector(`[name=answer][value="${CSS.escape(kept.answer)}"]`);
  given.push({ uuid: kept.uuid, card, name: button?.dataset.name ?? "" });
}
given.sort((one, other) => keptAt(one) - keptAt(other));
function keptAt({ uuid }) {
  return outbox.entries().find((entry) => entry.uuid === uuid)?.at ?? 0;
}
showUndo();
showFront();
showUnsaved();
outbox.send();
watchLearning();
