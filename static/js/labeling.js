// The desk: one image at a time, the next ones already drawn. An answer shows its effect at once and travels behind.
//
// Without this module the same form posts and the page comes back with the next image.

import { Conflicts } from "./conflicts.js";
import { setUpFind } from "./finding.js";
import { keyHelp, plainKey } from "./keys.js";
import { Learning } from "./learning.js";
import { Outbox } from "./outbox.js";
import { ready, refit, release } from "./pictures.js";
import { newUuid, send } from "./sending.js";
import { Stopwatch } from "./stopwatch.js";
import { View } from "./view.js";
import { gettext, interpolate } from "./words.js";

const RENEW_AFTER_MS = 60_000;
const SLOW_MS = 400; // an answer on its way for longer is counted where it can be seen
const LATE_MS = 1500; // and for longer than this it is worth a word
const UNSURE_MS = 400; // after the image changed by itself, a key may have been meant for the one before
const KEPT_CARDS = 30; // answered images that come back without asking the server
const LOOK_AGAIN_MS = 500;
const LOAD_AGAIN_MS = 3000;

const desk = document.getElementById("desk");
const deck = document.getElementById("deck");
const form = document.getElementById("answer");
const answers = document.getElementById("answers");
const waiting = document.getElementById("waiting");
const undoButton = document.getElementById("undo");
const flagButton = document.getElementById("flag");
const page = { address: desk.dataset.label, user: desk.dataset.user };
const place = `${desk.dataset.project}:${desk.dataset.user}`;

const stopwatch = new Stopwatch();
const view = new View(deck, place);
const learning = new Learning(desk.dataset.label);
const openHelp = keyHelp();
const given = []; // what this tab answered, newest last: {uuid, card, name}
let unsureUntil = 0;
let lastContact = Date.now();
let lastActivity = 0;
let isTakingBack = false;
let undoWishes = 0; // pressed while the server was still taking the answer before back
let turns = 0; // counts answers given and replies received: a reply from an earlier turn says nothing true any more

const outbox = new Outbox(place, {
  post: (entries) => send(entries[0].undo ? desk.dataset.undo : desk.dataset.label, formOf(entries), page),
  settled,
  changed(another) {
    if (another?.item && !another.undo && !another.refused) dropCard(another.item, gettext("This image was answered in another tab."));
    showUnsaved();
    topUp();
  },
});

const conflicts = new Conflicts({
  cardOf: (item) => cardOf(item),
  bring(card) {
    deck.prepend(card);
    showFront();
    answers.querySelector(".choice")?.focus();
  },
  again: (conflict) => outbox.again(conflict),
  leave(conflict) {
    outbox.remove(conflict);
    showUnsaved();
  },
});

function formOf(entries) {
  return entries.length === 1 ? fieldsOf(entries[0]) : { answers: JSON.stringify(entries.map(fieldsOf)) };
}

function fieldsOf({ uuid, item, answer, milliseconds, shown, undoes }) {
  if (!answer) return { uuid, answer: undoes };
  return { uuid, item, answer, shown: shown ?? "", ...(milliseconds === null ? {} : { milliseconds }) };
}

// ---- cards ----------------------------------------------------------------------------------------------------

const cards = () => [...deck.querySelectorAll(".card")];
const front = () => deck.querySelector("[data-front]");
const cardOf = (item) => deck.querySelector(`.card[data-item="${item}"]`);

/** What comes next, behind the image on the desk and those that are due already: a check that is due comes before it. */
const behindDue = () => cards().slice(1).find((card) => !("due" in card.dataset)) ?? waiting;

/** The room a picture has, in pixels of the page. */
function room() {
  const stage = front()?.querySelector(".stage");
  const { clientWidth, clientHeight } = stage ?? deck;
  return { width: clientWidth - 16, height: clientHeight - (stage ? 16 : 70) };
}

/** Load and draw a card's picture; resolves when it can be shown, or when it is clear that it cannot. */
function prepare(card) {
  return ready(card, room()).then(() => (card.dataset.ready = ""), () => showBroken(card)).then(() => {
    if (card === cards()[1]) showFront();
  });
}

function showBroken(card) {
  card.dataset.ready = "";
  card.dataset.broken = "";
  if (card.querySelector(".broken")) return;
  const picture = card.querySelector("img.picture");
  const note = document.createElement("p");
  note.className = "broken";
  const again = document.createElement("button");
  again.type = "button";
  again.className = "button";
  again.textContent = gettext("Load again");
  const load = async () => {
    clearTimeout(timer);
    picture.src = picture.getAttribute("src");
    await picture.decode().then(() => { delete card.dataset.broken; note.remove(); }, () => {});
    if ("broken" in card.dataset && card.isConnected) timer = setTimeout(load, LOAD_AGAIN_MS);
  };
  let timer = setTimeout(load, LOAD_AGAIN_MS); // the line may be back by then
  again.addEventListener("click", load);
  note.append(`${gettext("This image did not load.")} `, again);
  card.querySelector(".stage").append(note);
}

/** Bring the first card to the front, once its picture is there; say what is awaited until then. */
function showFront() {
  const [first, second] = cards();
  for (const card of cards()) {
    if (card !== first) delete card.dataset.front;
    // The next one lies behind the front one, painted, where nobody finds it.
    card.toggleAttribute("data-next", card === second && "ready" in card.dataset && !("broken" in card.dataset));
    card.inert = card !== first;
  }
  const isReady = first && "ready" in first.dataset;
  if (isReady && !("front" in first.dataset)) {
    first.dataset.front = "";
    stopwatch.start();
    view.away();
  } else if (first && !isReady) {
    prepare(first).then(showFront);
  }
  if (isReady) {
    form.elements.item.value = first.dataset.item;
    form.elements.shown.value = first.dataset.shown;
    flagButton.setAttribute("aria-pressed", String("flagged" in first.dataset));
  }
  const isDone = !first && !outbox.entries().length && !isTakingBack && document.getElementById("empty");
  waiting.hidden = Boolean(isReady || isDone);
  if (!waiting.hidden) waiting.textContent = first ? gettext("Loading the image…") : waitingText();
  answers.hidden = Boolean(isDone);
  answers.disabled = !isReady;
  flagButton.hidden = Boolean(isDone);
  flagButton.disabled = !isReady;
  for (const button of form.querySelectorAll(".page-answers [name=answer]")) {
    button.hidden = Boolean(isDone);
    button.disabled = !isReady;
  }
}

function waitingText() {
  if (isTakingBack) return gettext("Taking the last answer back…");
  return outbox.obstacle ? gettext("The next images come once your answers are saved.") : gettext("Fetching the next image…");
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
  if ("broken" in card.dataset && answer !== "skip") {
    return notify(gettext("This image did not load. Load it again, or skip it."), true);
  }
  hideNotice();
  turns += 1;
  const { item, shown, thumbnail } = card.dataset;
  const entry = { uuid: newUuid(), item, answer, name, shown, thumbnail, milliseconds: stopwatch.read() };
  card.remove();
  delete card.dataset.front;
  showFront();
  given.push({ uuid: entry.uuid, card, name });
  if (given.length > KEPT_CARDS) given.shift(); // the server knows it, and takes it back as well
  for (const conflict of outbox.conflicts()) if (conflict.item === item) outbox.remove(conflict);
  showUndo();
  outbox.add(entry);
  say(front() ? interpolate(gettext("%(name)s. Next: %(why)s"), { name, why: front().querySelector(".why").textContent }) : `${name}.`);
  setTimeout(() => !card.isConnected && release(card), 1000);
}

async function takeBack() {
  if (isTakingBack) {
    undoWishes += 1;
    return;
  }
  hideNotice();
  const last = given.pop();
  showUndo();
  if (last) {
    // At once: the card comes back, and the server is told in its turn.
    deck.prepend(last.card);
    if (cards()[1]) delete cards()[1].dataset.front;
    outbox.add({ uuid: newUuid(), undo: true, undoes: last.uuid, item: last.card.dataset.item });
    showFront();
    if (!last.card.querySelector("canvas")) prepare(last.card);
    say(interpolate(gettext("%(name)s taken back."), { name: last.name }));
    return;
  }
  if (outbox.entries().length) {
    if (outbox.obstacle) return notify(gettext("Your earlier answers are not saved yet; they can be taken back after that."), true);
    undoWishes += 1; // as soon as what is on its way has arrived
    return;
  }
  // An answer from before this page was opened: only the server knows which.
  isTakingBack = true;
  const shown = front();
  if (shown) delete shown.dataset.front;
  waiting.hidden = false;
  waiting.textContent = waitingText();
  const result = await send(desk.dataset.undo, { uuid: newUuid() }, page);
  isTakingBack = false;
  if (result.part) receive(result.part, result.outcome);
  else {
    undoWishes = 0;
    notify(`${gettext("Nothing was taken back.")} ${explain(result)}`, true);
  }
  showFront();
  fulfilUndo();
}

function fulfilUndo() {
  if (!undoWishes || isTakingBack || outbox.entries().length) return;
  undoWishes -= 1;
  takeBack();
}

function settled(entries, result) {
  for (const { uuid } of entries) {
    const index = given.findIndex((each) => each.uuid === uuid);
    if (index >= 0 && (result.outcome === "refused" || result.refusals?.has(uuid))) given.splice(index, 1);
  }
  showUndo();
  receive(result.part, result.outcome, entries);
  fulfilUndo();
}

/** Take in what a POST answered: the images held now, the progress, and what went wrong. */
function receive(part, outcome, entries = []) {
  lastContact = Date.now();
  turns += 1;
  const held = [...part.querySelectorAll(".card")].map((card) => document.adoptNode(card));
  const pending = outbox.entries();
  const awaited = new Set(pending.map((each) => each.item));
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
      if (!items.has(card.dataset.item)) dropCard(card.dataset.item, gettext("The image before was answered elsewhere, or your hold on it ran out."));
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
    find();
  }
  learning.take(part);
  const notice = part.getElementById("notice");
  // A refused answer is told with its choices; everything else in passing.
  const isConflict = outbox.conflicts().some((conflict) => entries.some(({ uuid }) => uuid === conflict.uuid));
  if (notice && !isConflict) {
    notify(notice.textContent, outcome === "refused");
  }
  showFront();
  showUnsaved();
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

async function flag() {
  const card = front();
  if (!card) return;
  const raised = !("flagged" in card.dataset);
  flagButton.setAttribute("aria-pressed", String(raised));
  const result = await send(card.dataset.flag, { raised: raised ? "1" : "0" }, page);
  if (result.outcome === "done") {
    if (raised) card.dataset.flagged = "";
    else delete card.dataset.flagged;
    say(raised ? gettext("Flagged: somebody will look at this image again.") : gettext("The flag is down."));
  } else {
    notify(`${gettext("The flag stayed as it was.")} ${explain(result)}`, true);
  }
  flagButton.setAttribute("aria-pressed", String("flagged" in (front()?.dataset ?? {})));
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
    case "offline": return gettext("The server does not answer. You can go on; trying again by itself.");
    case "trouble": return interpolate(gettext("The server has a problem (%(status)s). You can go on; trying again by itself."), { status: result.status });
    case "signed-out": return gettext("You are signed out. Sign in again, then come back here.");
    case "other-user": return interpolate(gettext("%(other)s is signed in in this browser now. Sign in as %(who)s again, then come back here."), { other: result.who, who: desk.dataset.who });
    default: return gettext("The server says that you may not label here any more. Ask an owner of the project.");
  }
}

let unsavedTimer = 0;

function showUnsaved() {
  conflicts.show(outbox.conflicts());
  const entries = outbox.entries();
  desk.dataset.unsaved = entries.length;
  const age = entries.length ? Date.now() - entries[0].at : 0;
  const isLate = Boolean(outbox.obstacle) || age > LATE_MS;
  const box = document.getElementById("unsaved");
  clearTimeout(unsavedTimer);
  if (entries.length && !isLate) unsavedTimer = setTimeout(showUnsaved, age > SLOW_MS ? LATE_MS - age + 1 : SLOW_MS - age + 1);
  const passing = document.getElementById("passing");
  const count = interpolate(gettext("%(n)s not yet saved."), { n: entries.length });
  passing.hidden = !entries.length || isLate || age <= SLOW_MS;
  if (!passing.hidden) passing.textContent = count;
  box.hidden = !entries.length || !isLate;
  if (box.hidden) return;
  const text = document.getElementById("unsaved-text");
  const kept = outbox.isForgetful ? gettext("Keep this page open.") : gettext("Kept in this browser.");
  const said = `${count} ${outbox.obstacle ? `${explain(outbox.obstacle)} ${kept}` : gettext("On the way.")}`;
  if (text.dataset.said === said) return; // a screen reader would read it again
  text.dataset.said = said;
  text.textContent = `${said} `;
  if (outbox.obstacle && ["signed-out", "other-user"].includes(outbox.obstacle.outcome)) {
    const link = document.createElement("a");
    Object.assign(link, { href: desk.dataset.login, target: "_blank", rel: "opener", textContent: gettext("Sign in") });
    text.append(link);
  }
}

// ---- input ----------------------------------------------------------------------------------------------------

const COMMANDS = {
  "?": openHelp,
  "z": takeBack,
  "f": flag,
  "/": () => document.getElementById("find")?.focus(),
};

document.addEventListener("keydown", (event) => {
  const key = plainKey(event);
  if (key === null || (event.target.type === "range" && key.startsWith("Arrow"))) return;
  const button = form.querySelector(`[name=answer][data-key="${CSS.escape(key)}"]`);
  if (button) {
    if (button.disabled || answers.hidden || answers.disabled) return;
    flash(button);
    give(button.value, button.dataset.name);
  } else if (COMMANDS[key]) COMMANDS[key]();
  else if (!view.press(key)) return;
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

function find() {
  setUpFind(
    (button) => give(button.value, button.dataset.name),
    () => (front()?.dataset.likely ?? "").split(" ").filter(Boolean),
  );
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
flagButton.addEventListener("click", flag);
document.getElementById("retry").addEventListener("click", () => outbox.retry());

let resizeTimer = 0;
new ResizeObserver(() => {
  clearTimeout(resizeTimer);
  resizeTimer = setTimeout(() => {
    for (const card of cards()) refit(card, room());
    view.show();
  }, 300);
}).observe(deck);

// ---- what earlier pages left ----------------------------------------------------------------------------------

await outbox.ready;
for (const [index, card] of cards().entries()) {
  const kept = outbox.entries().findLast((entry) => entry.item === card.dataset.item);
  if (kept && !kept.undo) {
    // Answered before the page was loaded again, and still on its way.
    card.remove();
    delete card.dataset.front;
    prepare(card);
    given.push({ uuid: kept.uuid, card, name: kept.name });
    continue;
  }
  const picture = card.querySelector("img.picture");
  // What is seen already stays seen.
  if (index === 0 && "front" in card.dataset && picture?.complete && picture.naturalWidth) card.dataset.ready = "";
  else delete card.dataset.front;
  prepare(card);
}
given.sort((one, other) => keptAt(one) - keptAt(other));
function keptAt({ uuid }) {
  return outbox.entries().find((entry) => entry.uuid === uuid)?.at ?? 0;
}
find();
showUndo();
showFront();
if (front()) {
  stopwatch.start();
  view.away();
}
showUnsaved();
outbox.send();
