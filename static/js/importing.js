// The import page: folders can be dropped, every file shows how far it is, and nothing is lost by a bad connection.
//
// Without this module the same form sends its files in one request.

import { chosen, dropped } from "./gathering.js";
import { Upload } from "./uploading.js";
import { gettext, interpolate, ngettext } from "./words.js";

const ROWS = 60; // with more files than that only those that are being sent or failed are listed
const FAILED_ROWS = 200;
const TELLING_MS = 4000; // before that what is left is anybody's guess
const ALOUD_MS = 5000;

const form = document.getElementById("import-form");
const drop = document.getElementById("drop");
const field = form.elements.files;
const folder = document.getElementById("folder");
const button = document.getElementById("import-button");
const sending = document.getElementById("sending");
const list = document.getElementById("sending-list");
const again = document.getElementById("sending-again");
const trouble = document.getElementById("sending-trouble");

let token = form.elements.csrfmiddlewaretoken.value;
let upload = fresh();
let leftOut = 0;
let unread = [];
let begun = 0;
let isWaitingForFrame = false;
let saidAloudAt = 0;

function fresh() {
  return new Upload({ post, look, changed: () => soon() });
}

// ---- choosing ----------------------------------------------------------------------------------------------------

drop.hidden = false;
field.hidden = true;
field.required = false;
document.getElementById("choose-files").addEventListener("click", () => field.click());
document.getElementById("choose-folder").addEventListener("click", () => folder.click());
for (const input of [field, folder]) {
  input.addEventListener("change", () => {
    take(chosen(input.files));
    input.value = ""; // choosing the same again is a choice too
  });
}

// Anywhere on the page: a drop beside the box would make the browser leave and show the picture instead.
let depth = 0;
addEventListener("dragenter", (event) => hasFiles(event) && (depth += 1) && drop.classList.add("over"));
addEventListener("dragleave", (event) => hasFiles(event) && (depth -= 1) <= 0 && drop.classList.remove("over"));
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  depth = 0;
  drop.classList.remove("over");
  say(gettext("Looking through what was dropped…"));
  take(await dropped(event.dataTransfer));
});

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

function take(found) {
  leftOut += found.leftOut;
  unread = unread.concat(found.unread);
  document.getElementById("refused").replaceChildren();
  upload.add(found.files);
  say(summary());
  button.focus({ preventScroll: true });
}

// ---- sending -----------------------------------------------------------------------------------------------------

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (upload.isRunning) return;
  if (!upload.entries.length) return refuse(gettext("Choose at least one image or zip file."));
  begun = begun || Date.now();
  await upload.run();
  if (upload.isCancelled || upload.count("waiting")) return;
  if (upload.count("done") && !upload.count("failed")) await finish();
  else draw();
});

again.addEventListener("click", async () => {
  upload.again();
  form.requestSubmit();
});

document.getElementById("sending-cancel").addEventListener("click", async () => {
  const { collection } = upload;
  upload.cancel();
  start();
  say(gettext("Cancelled. Nothing of it was imported."));
  const body = new FormData();
  body.set("collection", collection);
  body.set("discard", "all");
  // What stays behind when this fails is removed after a day.
  await fetch(form.dataset.files, { method: "POST", body, headers: { "X-CSRFToken": token } }).catch(() => {});
});

/** Everything has arrived, or what has is enough: have it imported, and show that import. */
async function finish() {
  const body = new FormData(form);
  body.delete("files");
  body.set("collection", upload.collection);
  const answer = await send(form.action, body);
  if (answer === null) return refuse(gettext("The server does not answer. Your files are there; press Import again."));
  const part = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!answer.ok) {
    const refusal = part.getElementById("refusal");
    return refuse(refusal ? refusal.textContent : interpolate(gettext("The server has a problem (%(status)s). Press Import again."), { status: answer.status }));
  }
  const fresh = document.adoptNode(part.getElementById("imports"));
  const steps = fresh.querySelector("#first-steps");
  if (steps) document.querySelector("body > main #first-steps").replaceWith(steps);
  document.getElementById("imports").replaceWith(fresh);
  window.htmx?.process(fresh);
  start();
  say(gettext("All files have arrived and are being imported."));
  document.getElementById("imports-title").scrollIntoView({ block: "nearest" });
}

async function send(address, body) {
  for (const isLast of [false, true]) {
    let answer;
    body.set("csrfmiddlewaretoken", token); // what the form holds counts more than the header, and may be old
    try {
      answer = await fetch(address, { method: "POST", body, redirect: "manual", headers: { "HX-Request": "true", "X-CSRFToken": token } });
    } catch {
      return null;
    }
    if (answer.type === "opaqueredirect") {
      upload.obstacle = "signed-out";
      draw();
      return null;
    }
    if (answer.status !== 403 || isLast || (await look()) !== null) return answer;
  }
}

function start() {
  upload = fresh();
  leftOut = 0;
  unread = [];
  begun = 0;
  draw();
}

/** One request with some files; resolves to an outcome as in uploading.js. fetch cannot tell how much was sent. */
function post(fields, files, signal, progress) {
  return new Promise((resolve) => {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.set(name, value);
    for (const file of files) body.append("files", file, file.name);
    const request = new XMLHttpRequest();
    request.open("POST", form.dataset.files);
    request.setRequestHeader("X-CSRFToken", token);
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", (event) => event.lengthComputable && progress(event.loaded / event.total));
    request.addEventListener("load", async () => resolve(await judge(request)));
    // A server that turns somebody away may hang up before it has read a large request: it is asked what is wrong.
    request.addEventListener("error", async () => resolve({ outcome: (await look()) ?? "trouble", why: gettext("no answer") }));
    request.addEventListener("abort", () => resolve({ outcome: "cancelled" }));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

async function judge(request) {
  if (request.status === 200 && isJson(request)) return { outcome: "done" };
  if (request.status === 403) {
    // A sign-in elsewhere changed the token; the page knows the new one.
    const before = token;
    const obstacle = await look();
    return { outcome: obstacle ?? (token === before ? "denied" : "offline") };
  }
  if (request.status === 200) return { outcome: "signed-out" }; // led to the page that asks who it is
  if (isJson(request)) return { outcome: "refused", why: sentence(JSON.parse(request.responseText).message) };
  if (request.status === 404) return { outcome: "denied" };
  if (request.status === 413) return { outcome: "refused", why: gettext("It is larger than the server takes.") };
  return { outcome: "trouble", why: request.status };
}

const isJson = (request) => request.getResponseHeader("Content-Type")?.startsWith("application/json");
const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

/** Why nothing can be sent now: offline, signed-out or denied; null if it could. Brings the token up to date. */
async function look() {
  let answer;
  try {
    answer = await fetch(form.action, { redirect: "manual" });
  } catch {
    return "offline";
  }
  if (answer.type === "opaqueredirect") return "signed-out";
  if (answer.status === 403 || answer.status === 404) return "denied";
  if (!answer.ok) return "offline";
  const whole = new DOMParser().parseFromString(await answer.text(), "text/html");
  token = whole.querySelector("#import-form [name=csrfmiddlewaretoken]")?.value ?? token;
  return null;
}

addEventListener("beforeunload", (event) => {
  if (upload.isRunning || upload.count("done")) event.preventDefault();
});

// ---- what the page says ------------------------------------------------------------------------------------------

function say(text) {
  document.getElementById("sending-aloud").textContent = text;
}

function refuse(text) {
  const note = document.createElement("p");
  note.className = "notice error";
  note.setAttribute("role", "alert");
  note.textContent = text;
  document.getElementById("refused").replaceChildren(note);
}

/** At most once a frame: ten thousand files change often. */
function soon() {
  if (isWaitingForFrame) return;
  isWaitingForFrame = true;
  requestAnimationFrame(() => {
    isWaitingForFrame = false;
    draw();
  });
}

function draw() {
  const { entries } = upload;
  const failed = upload.count("failed");
  sending.hidden = !entries.length && !leftOut && !unread.length;
  const bar = document.getElementById("sending-bar");
  bar.hidden = !begun;
  bar.value = upload.bytes ? upload.bytesSent / upload.bytes : 0;
  document.getElementById("sending-said").textContent = summary();
  again.hidden = !failed || upload.isRunning;
  const isPartly = Boolean(failed) && upload.count("done") > 0 && !upload.isRunning && !upload.count("waiting");
  button.disabled = upload.isRunning;
  showKept(isPartly);
  showTrouble();
  drawRows();
  if (upload.isRunning && Date.now() - saidAloudAt > ALOUD_MS) {
    saidAloudAt = Date.now();
    say(summary());
  }
}

function summary() {
  const { entries, bytes } = upload;
  const n = entries.length;
  const done = upload.count("done");
  const failed = upload.count("failed");
  const parts = [];
  if (begun) {
    parts.push(interpolate(gettext("%(done)s of %(n)s files sent, %(sent)s of %(bytes)s"), { done: whole(done), n: whole(n), sent: size(upload.bytesSent), bytes: size(bytes) }));
  } else if (n) {
    parts.push(interpolate(ngettext("%(n)s file, %(bytes)s", "%(n)s files, %(bytes)s", n), { n: whole(n), bytes: size(bytes) }));
  }
  if (failed) parts.push(interpolate(ngettext("%(n)s failed", "%(n)s failed", failed), { n: whole(failed) }));
  if (leftOut) parts.push(interpolate(ngettext("%(n)s other file left out", "%(n)s other files left out", leftOut), { n: whole(leftOut) }));
  if (unread.length) parts.push(interpolate(gettext("%(name)s could not be read"), { name: unread[0] }));
  const left = upload.isRunning && timeLeft();
  if (left) parts.push(left);
  return parts.join(" · ");
}

function timeLeft() {
  const gone = Date.now() - begun;
  const share = upload.bytes ? upload.bytesSent / upload.bytes : 0;
  if (upload.obstacle || gone < TELLING_MS || share < 0.02) return "";
  const minutes = Math.round((gone * (1 - share)) / share / 60_000);
  if (minutes < 1) return gettext("less than a minute left");
  return interpolate(ngettext("about %(n)s minute left", "about %(n)s minutes left", minutes), { n: minutes });
}

const whole = (number) => number.toLocaleString(document.documentElement.lang);

function size(bytes) {
  const [amount, unit] = bytes < 2 ** 20 ? [bytes / 2 ** 10, "kB"] : bytes < 2 ** 30 ? [bytes / 2 ** 20, "MB"] : [bytes / 2 ** 30, "GB"];
  return `${amount.toLocaleString(document.documentElement.lang, { maximumFractionDigits: amount < 10 ? 1 : 0 })}\u00a0${unit}`;
}

/** Where some files failed, the others can go in without them. */
function showKept(isPartly) {
  button.textContent = isPartly
    ? interpolate(ngettext("Import the %(n)s that arrived", "Import the %(n)s that arrived", upload.count("done")), { n: whole(upload.count("done")) })
    : gettext("Import");
  button.type = isPartly ? "button" : "submit";
}
button.addEventListener("click", () => button.type === "button" && finish());

function showTrouble() {
  const why = upload.obstacle;
  if (trouble.dataset.why === String(why)) return; // a screen reader would read it again
  trouble.dataset.why = String(why);
  trouble.replaceChildren();
  if (!why) return;
  const note = document.createElement("p");
  note.className = "notice warning";
  note.append({
    "offline": gettext("The server does not answer. Keep this page open: it goes on by itself, and nothing that arrived is sent again."),
    "trouble": gettext("The server has a problem. Keep this page open: it tries again by itself."),
    "signed-out": gettext("You are signed out. Sign in again, then go on here; keep this page open."),
    "denied": gettext("The server says that you may not import here any more. Ask an owner of the project."),
  }[why] ?? "");
  if (why === "signed-out") {
    const link = document.createElement("a");
    Object.assign(link, { href: form.dataset.login, target: "_blank", rel: "opener", textContent: gettext("Sign in") });
    note.append(" ", link);
  }
  if (why !== "denied") {
    const now = document.createElement("button");
    Object.assign(now, { type: "button", className: "button small", textContent: gettext("Try now") });
    now.addEventListener("click", () => upload.goOn());
    note.append(" ", now);
  }
  trouble.append(note);
}

function drawRows() {
  const { entries } = upload;
  const failed = entries.filter((entry) => entry.state === "failed");
  const others = entries.length <= ROWS ? entries.filter((entry) => entry.state !== "failed") : entries.filter((entry) => entry.state === "sending");
  const rows = [...failed.slice(0, FAILED_ROWS), ...others].map(row);
  if (failed.length > FAILED_ROWS) {
    rows.push(line(interpolate(gettext("And %(n)s more that failed."), { n: whole(failed.length - FAILED_ROWS) })));
  }
  list.replaceChildren(...rows);
}

function line(text) {
  const element = document.createElement("li");
  element.textContent = text;
  return element;
}

function row(entry) {
  const element = document.createElement("li");
  element.className = entry.state;
  const name = document.createElement("span");
  Object.assign(name, { className: "clip", textContent: entry.path, title: entry.path });
  const said = document.createElement("span");
  said.className = "number keeps";
  const told = { waiting: size(entry.size), done: gettext("sent"), failed: gettext("failed") };
  said.textContent = told[entry.state] ?? `${size(entry.sent)} / ${size(entry.size)}`;
  element.append(name, said);
  if (entry.state === "waiting" && !upload.isRunning) {
    const remove = document.createElement("button");
    Object.assign(remove, { type: "button", className: "quiet", textContent: gettext("Leave out") });
    remove.setAttribute("aria-label", interpolate(gettext("Leave out %(name)s"), { name: entry.path }));
    remove.addEventListener("click", () => upload.remove(entry));
    element.append(remove);
  }
  if (entry.state === "failed") {
    const why = document.createElement("span");
    Object.assign(why, { className: "why", textContent: entry.why });
    element.append(why);
  }
  return element;
}
