// The map of the images: drawn, moved, zoomed, and parts of it selected to be labelled or reviewed.

import { colouring, describe, showLegend } from "./map_colours.js";
import { fetchPoints, finder, inside, simplified } from "./map_points.js";
import { gettext, interpolate, ngettext } from "./words.js";

const CORNERS_AT_MOST = 200;
const CLOSEST = 60;
const NEAR_PX = 12;

const box = document.getElementById("map");
const sheet = box.querySelector(".sheet");
const canvas = sheet.querySelector("canvas");
const pen = canvas.getContext("2d", { alpha: false });
const under = document.getElementById("map-under");
const legend = document.getElementById("map-legend");
const colourBy = document.getElementById("map-colour");
const bar = document.getElementById("map-selection");

let points, find, colours;
let [group, lines, picked] = [null, [], null];
let [tool, outline, chosen, pointed] = ["move", null, null, -1];
// The part of the map in sight: its middle, and how many times the whole fits.
let view = { x: 0.5, y: 0.5, zoom: 1 };
let asked = false;

const size = () => ({ wide: canvas.clientWidth, tall: canvas.clientHeight });
const scale = () => Math.min(size().wide, size().tall) * view.zoom;
const toScreen = (x, y) => [size().wide / 2 + (x - view.x) * scale(), size().tall / 2 - (y - view.y) * scale()];
const toMap = (px, py) => [view.x + (px - size().wide / 2) / scale(), view.y - (py - size().tall / 2) / scale()];
const within = (value) => Math.min(1, Math.max(0, value));

function redraw() {
  if (asked || !points) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    paint();
  });
}

// --- painting: pixels into one picture, which costs the same for any number of colours ---

const ground = () => getComputedStyle(sheet).backgroundColor;
const ink = () => getComputedStyle(sheet).color;

const known = new Map();
const drop = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });

/** A colour as [red, green, blue, alpha], however it is written. */
function numbers(colour) {
  if (!known.has(colour)) {
    drop.fillStyle = colour;
    drop.fillRect(0, 0, 1, 1);
    known.set(colour, drop.getImageData(0, 0, 1, 1).data);
  }
  return known.get(colour);
}

function paint() {
  const dots = window.devicePixelRatio || 1;
  const [wide, tall] = [Math.round(size().wide * dots), Math.round(size().tall * dots)];
  if (!wide || !tall) return;
  if (canvas.width !== wide || canvas.height !== tall) [canvas.width, canvas.height] = [wide, tall];
  const back = numbers(ground());
  const picture = pen.createImageData(wide, tall);
  const pixels = new Uint32Array(picture.data.buffer);
  const mix = ([r, g, b], share) =>
    ((255 << 24) | (Math.round(b * share + back[2] * (1 - share)) << 16) |
      (Math.round(g * share + back[1] * (1 - share)) << 8) | Math.round(r * share + back[0] * (1 - share))) >>> 0;
  pixels.fill(mix(back, 1));
  const full = lines.map((line) => mix(numbers(line.colour), 1));
  const faint = lines.map((line) => mix(numbers(line.colour), 0.18));
  const by = scale() * dots;
  const [left, top] = [wide / 2 - view.x * by, tall / 2 + view.y * by];
  const crowd = Math.sqrt((wide * tall * view.zoom ** 2) / Math.max(1, points.n));
  const radius = Math.max(1, Math.min(6 * dots, crowd / 6));
  const reach = Math.round(radius);
  const spans = Array.from({ length: 2 * reach + 1 }, (_, row) =>
    Math.floor(Math.sqrt((reach + 0.3) ** 2 - (row - reach) ** 2)));
  const dims = picked !== null || chosen !== null;
  // What is dimmed lies beneath what is not.
  for (const bright of dims ? [false, true] : [true]) {
    for (let i = 0; i < points.n; i += 1) {
      const stands = (picked === null || group[i] === picked) && (chosen === null || chosen[i] === 1);
      if (dims && stands !== bright) continue;
      const [x, y] = [Math.round(left + points.x[i] * by), Math.round(top - points.y[i] * by)];
      if (x < -reach || y < -reach || x >= wide + reach || y >= tall + reach) continue;
      const colour = bright ? full[group[i]] : faint[group[i]];
      for (let row = Math.max(0, y - reach); row <= Math.min(tall - 1, y + reach); row += 1) {
        const span = spans[row - y + reach];
        pixels.fill(colour, row * wide + Math.max(0, x - span), row * wide + Math.min(wide, x + span + 1));
      }
    }
  }
  pen.putImageData(picture, 0, 0);
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  if (outline) drawOutline();
  if (pointed >= 0) ring(...toScreen(points.x[pointed], points.y[pointed]));
  pen.setTransform(1, 0, 0, 1, 0, 0);
}

function drawOutline() {
  pen.beginPath();
  for (const [x, y] of outline) pen.lineTo(...toScreen(x, y));
  if (chosen) pen.closePath();
  pen.strokeStyle = ink();
  pen.lineWidth = 1.5;
  pen.setLineDash([5, 4]);
  pen.stroke();
  pen.setLineDash([]);
}

function ring(x, y) {
  for (const [colour, width] of [[ground(), 5], [ink(), 2]]) {
    pen.beginPath();
    pen.arc(x, y, 9, 0, 2 * Math.PI);
    [pen.strokeStyle, pen.lineWidth] = [colour, width];
    pen.stroke();
  }
}

// --- what is seen ---

function zoomBy(factor, px = size().wide / 2, py = size().tall / 2) {
  const [x, y] = toMap(px, py);
  view.zoom = Math.min(CLOSEST, Math.max(0.8, view.zoom * factor));
  const [nowX, nowY] = toMap(px, py);
  moveTo(view.x + x - nowX, view.y + y - nowY);
}

function moveTo(x, y) {
  [view.x, view.y] = [within(x), within(y)];
  redraw();
}

function showAll() {
  view = { x: 0.5, y: 0.5, zoom: 1 };
  redraw();
}

// --- what is pointed at ---

function point(i) {
  if (i === pointed) return;
  pointed = i;
  redraw();
  if (i < 0) return;
  const picture = document.createElement("img");
  picture.className = "picture";
  picture.alt = "";
  picture.src = box.dataset.thumbnail.replace("/0/", `/${points.ids[i]}/`);
  picture.addEventListener("load", () => picture.classList.toggle("tiny", picture.naturalWidth <= 64));
  const link = document.createElement("a");
  link.href = box.dataset.image.replace("/0/", `/${points.ids[i]}/`);
  link.textContent = interpolate(gettext("Image %(id)s"), { id: points.ids[i] });
  const said = document.createElement("ul");
  said.className = "hint";
  said.append(...describe(points, i).map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  under.replaceChildren(picture, link, said);
}

function pointNext(dx, dy) {
  if (pointed < 0) return point(find(view.x, view.y, 2));
  const [x, y] = [points.x[pointed], points.y[pointed]];
  // The nearest within a quarter turn of that way.
  const lies = (i) => {
    const [ax, ay] = [points.x[i] - x, points.y[i] - y];
    return i !== pointed && ax * dx + ay * dy > 0 && Math.abs(ax * dy - ay * dx) <= Math.abs(ax * dx + ay * dy);
  };
  const next = [0.02, 0.1, 2].map((far) => find(x, y, far, lies)).find((i) => i >= 0) ?? -1;
  if (next < 0) return undefined;
  const [px, py] = toScreen(points.x[next], points.y[next]);
  if (px < 0 || py < 0 || px > size().wide || py > size().tall) moveTo(points.x[next], points.y[next]);
  return point(next);
}

// --- what is selected ---

function select(corners) {
  const simple = corners && simplified(corners, CORNERS_AT_MOST).map(([x, y]) => [within(x), within(y)]);
  chosen = simple && simple.length >= 3 ? inside(points, simple) : null;
  const count = chosen ? chosen.reduce((sum, each) => sum + each, 0) : 0;
  if (!count) [chosen, outline] = [null, null];
  else outline = simple;
  bar.hidden = !count;
  if (count) offer(simple, count);
  else document.getElementById("map-selected").textContent = "";
  redraw();
}

function offer(corners, count) {
  let open = 0;
  for (let i = 0; i < points.n; i += 1) if (chosen[i] && points.states[points.state[i]] === "open") open += 1;
  const text = corners.map(([x, y]) => `${x.toFixed(5)},${y.toFixed(5)}`).join(";");
  const images = interpolate(ngettext("%(n)s image selected", "%(n)s images selected", count), { n: count.toLocaleString("en") });
  const stillOpen = interpolate(gettext("%(n)s of them open"), { n: open.toLocaleString("en") });
  document.getElementById("map-selected").textContent = `${images}, ${stillOpen}`;
  for (const field of bar.querySelectorAll('input[name="inside"]')) field.value = text;
  for (const button of bar.querySelectorAll('form button[type="submit"]')) button.disabled = open === 0;
  for (const link of bar.querySelectorAll("a")) {
    const address = new URL(link.href);
    address.searchParams.set("inside", text);
    link.href = address.href;
  }
}

function selectView() {
  const [[left, high], [right, low]] = [toMap(0, 0), toMap(size().wide, size().tall)];
  const [l, r, b, t] = [left, right, low, high].map(within);
  select([[l, b], [r, b], [r, t], [l, t]]);
}

function use(name) {
  tool = name;
  sheet.dataset.tool = name;
  for (const button of box.querySelectorAll("[data-tool][aria-pressed]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  }
}

// --- pointers: one draws or moves, two zoom ---

const held = new Map();
let [grabbed, drawn] = [null, null];
const place = (event) => {
  const edge = canvas.getBoundingClientRect();
  return [event.clientX - edge.left, event.clientY - edge.top];
};

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  held.set(event.pointerId, place(event));
  if (held.size === 2) [grabbed, drawn] = [null, null];
  else if (tool === "move" && !event.shiftKey) grabbed = { at: place(event), moved: false };
  else {
    drawn = { from: toMap(...place(event)), lasso: tool !== "box" };
    chosen = null;
    outline = [drawn.from];
  }
  sheet.classList.toggle("moving", grabbed !== null);
});

canvas.addEventListener("pointermove", (event) => {
  const [px, py] = place(event);
  const before = held.get(event.pointerId);
  if (before && held.size === 2) pinch(event.pointerId, [px, py]);
  else if (grabbed && before) {
    grabbed.moved ||= Math.hypot(px - grabbed.at[0], py - grabbed.at[1]) > 4;
    moveTo(view.x - (px - before[0]) / scale(), view.y + (py - before[1]) / scale());
  } else if (drawn && before) {
    const [x, y] = toMap(px, py);
    const [x0, y0] = drawn.from;
    if (drawn.lasso) outline.push([x, y]);
    else outline = [[x0, y0], [x, y0], [x, y], [x0, y]];
    redraw();
  } else point(find(...toMap(px, py), NEAR_PX / scale()));
  if (before) held.set(event.pointerId, [px, py]);
});

function pinch(id, now) {
  const [other] = [...held.entries()].filter(([each]) => each !== id).map(([, at]) => at);
  const before = held.get(id);
  const was = Math.hypot(before[0] - other[0], before[1] - other[1]);
  const is = Math.hypot(now[0] - other[0], now[1] - other[1]);
  if (was > 0) zoomBy(is / was, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
}

for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, (event) => {
    held.delete(event.pointerId);
    if (grabbed && !grabbed.moved) point(find(...toMap(...place(event)), (2 * NEAR_PX) / scale()));
    if (drawn) select(kind === "pointerup" && outline.length >= 3 ? outline : null);
    [grabbed, drawn] = [null, null];
    sheet.classList.remove("moving");
  });
}

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...place(event));
}, { passive: false });

// --- keys and buttons ---

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const KEYS = {
  "+": () => zoomBy(1.4), "=": () => zoomBy(1.4), "-": () => zoomBy(1 / 1.4), 0: showAll, v: selectView,
  Escape: () => select(null),
};

sheet.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const way = WAYS[event.key];
  if (way && event.shiftKey) pointNext(...way);
  else if (way) moveTo(view.x + (way[0] * 60) / scale(), view.y + (way[1] * 60) / scale());
  else if (KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key]) {
    KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key]();
  } else return;
  event.preventDefault();
});

const DO = { closer: () => zoomBy(1.4), farther: () => zoomBy(1 / 1.4), all: showAll, view: selectView, none: () => select(null) };

box.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-tool], button[data-do]");
  if (button?.dataset.tool) use(button.dataset.tool);
  if (button?.dataset.do) DO[button.dataset.do]();
});

function recolour() {
  colours = colouring(points, colourBy.value);
  [group, lines, picked] = [colours.group, colours.lines, null];
  pick(null);
}

function pick(line) {
  picked = line;
  showLegend(legend, lines, picked, pick);
  redraw();
}

colourBy.addEventListener("change", recolour);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(redraw).observe(canvas);

box.hidden = false;
use("move");
try {
  points = await fetchPoints(box.dataset.points);
  find = finder(points);
  // Before there is a model its opinion says nothing.
  if (!points.model) colourBy.value = "state";
  recolour();
  box.dataset.ready = "";
} catch (error) {
  under.replaceChildren(Object.assign(document.createElement("p"), {
    className: "notice warning",
    textContent: interpolate(gettext("The points did not arrive (%(why)s). Reload the page."), { why: error.message }),
  }));
}
