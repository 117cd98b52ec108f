// A closer look: wheel, pinch, drag, double click and keys; brighter, darker, more contrast, hard pixels or smooth.
// What was set stays for this project until the tab is closed; a closer look ends with the image.

import { interpolate, gettext } from "./words.js";

const LARGEST = 16;
const STEP = 1.5;
const PAN_PX = 80;
const ALL = { brightness: 100, contrast: 100, pixelated: null };
const LIMITS = [20, 400];

export class View {
  #deck;
  #store;
  #tone;
  #scale = 1;
  #x = 0; // of the picture's start, in pixels of the stage
  #y = 0;
  #pointers = new Map();
  #dragged = false;

  constructor(deck, name) {
    this.#deck = deck;
    this.#store = `winnow:view:${name}`;
    this.#tone = { ...ALL, ...this.#recall() };
    const tools = document.getElementById("view-tools");
    tools.hidden = false;
    deck.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    deck.addEventListener("dblclick", (event) => this.#stageOf(event) && this.by(this.#scale > 1 ? 1 / this.#scale : STEP * STEP, event));
    deck.addEventListener("pointerdown", (event) => this.#onDown(event));
    deck.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const kind of ["pointerup", "pointercancel"]) deck.addEventListener(kind, (event) => this.#onUp(event));
    tools.addEventListener("click", (event) => {
      const wish = event.target.closest("[data-view]")?.dataset.view;
      if (wish) this.press(wish === "reset" ? "Escape" : wish);
    });
    for (const name of ["brightness", "contrast"]) {
      document.getElementById(name).addEventListener("input", (event) => this.#set({ [name]: Number(event.target.value) }));
    }
    document.getElementById("pixelated").addEventListener("change", (event) => this.#set({ pixelated: event.target.checked }));
    document.addEventListener("click", (event) => {
      const adjust = document.getElementById("adjust");
      if (adjust.open && !event.target.closest("#adjust")) adjust.open = false;
    });
    this.show();
  }

  /** Whether the key was for the view. */
  press(key) {
    const { brightness, contrast } = this.#tone;
    switch (key) {
      case "+": case "=": this.by(STEP); return true;
      case "-": this.by(1 / STEP); return true;
      case "0": case "Escape": return this.reset();
      case ".": this.#set({ brightness: brightness + 10 }); return true;
      case ",": this.#set({ brightness: brightness - 10 }); return true;
      case ":": this.#set({ contrast: contrast + 10 }); return true;
      case ";": this.#set({ contrast: contrast - 10 }); return true;
      case "p": this.#set({ pixelated: !this.#isPixelated() }); return true;
      case "ArrowLeft": return this.#pan(PAN_PX, 0);
      case "ArrowRight": return this.#pan(-PAN_PX, 0);
      case "ArrowUp": return this.#pan(0, PAN_PX);
      case "ArrowDown": return this.#pan(0, -PAN_PX);
      default: return false;
    }
  }

  reset() {
    const wasOpen = document.getElementById("adjust").open;
    document.getElementById("adjust").open = false;
    const isChanged = this.#scale !== 1 || JSON.stringify(this.#tone) !== JSON.stringify(ALL);
    this.#set(ALL);
    this.away();
    return isChanged || wasOpen;
  }

  /** The whole image again: the next one begins so. */
  away() {
    this.#scale = 1;
    this.#x = this.#y = 0;
    this.#pointers.clear();
    this.show();
  }

  /** So many times as large, around the event's place or the middle. */
  by(factor, at = null) {
    const stage = this.#stage();
    if (!stage) return;
    const box = stage.getBoundingClientRect();
    const [x, y] = at ? [at.clientX - box.left, at.clientY - box.top] : [box.width / 2, box.height / 2];
    const scale = Math.min(LARGEST, Math.max(1, this.#scale * factor));
    this.#x = x - ((x - this.#x) * scale) / this.#scale;
    this.#y = y - ((y - this.#y) * scale) / this.#scale;
    this.#scale = scale;
    if (scale < 1.01) {
      this.#scale = 1;
      this.#x = this.#y = 0;
    }
    this.show();
    if (this.#scale > 1) sharpen(stage);
  }

  /** Bring the front card in line with what is set. */
  show() {
    const stage = this.#stage();
    const { brightness, contrast, pixelated } = this.#tone;
    const isToned = brightness !== 100 || contrast !== 100;
    this.#deck.classList.toggle("pixelated", pixelated === true);
    this.#deck.classList.toggle("smooth", pixelated === false);
    if (stage) {
      if (this.#scale > 1) this.#hold(stage.getBoundingClientRect());
      stage.classList.toggle("enlarged", this.#scale > 1);
      if (this.#scale === 1) stage.classList.remove("sharp");
      for (const picture of stage.querySelectorAll(".picture")) {
        const transform = this.#scale > 1 ? `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})` : "";
        picture.style.setProperty("transform", transform);
        picture.style.setProperty("filter", isToned ? `brightness(${brightness}%) contrast(${contrast}%)` : "");
      }
    }
    for (const [name, value] of [["brightness", brightness], ["contrast", contrast]]) {
      document.getElementById(name).value = value;
      document.getElementById(`${name}-said`).textContent = `${value}\u00a0%`;
    }
    document.getElementById("pixelated").checked = this.#isPixelated();
    document.querySelector(".adjust-name").textContent = isToned
      ? interpolate(gettext("%(brightness)s\u00a0%, contrast %(contrast)s\u00a0%"), { brightness, contrast })
      : gettext("View");
  }

  /** Keep the picture over the whole stage. */
  #hold({ width, height }) {
    this.#x = Math.min(0, Math.max(width * (1 - this.#scale), this.#x));
    this.#y = Math.min(0, Math.max(height * (1 - this.#scale), this.#y));
  }

  #set(changes) {
    Object.assign(this.#tone, changes);
    for (const name of ["brightness", "contrast"]) {
      this.#tone[name] = Math.min(LIMITS[1], Math.max(LIMITS[0], this.#tone[name]));
    }
    try {
      sessionStorage.setItem(this.#store, JSON.stringify(this.#tone));
    } catch { /* set for this page alone */ }
    this.show();
  }

  #recall() {
    try {
      return JSON.parse(sessionStorage.getItem(this.#store)) ?? {};
    } catch {
      return {};
    }
  }

  #isPixelated() {
    return this.#tone.pixelated ?? Boolean(this.#stage()?.querySelector(".tiny"));
  }

  #stage() {
    return this.#deck.querySelector("[data-front] .stage");
  }

  #stageOf(event) {
    return event.target.closest?.("[data-front] .stage");
  }

  #pan(x, y) {
    if (this.#scale === 1) return false;
    this.#x += x;
    this.#y += y;
    this.show();
    return true;
  }

  #onWheel(event) {
    if (!this.#stageOf(event)) return;
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.by(Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 100 : 400)), event);
  }

  #onDown(event) {
    if (!this.#stageOf(event) || event.button > 0) return;
    this.#pointers.set(event.pointerId, event);
    this.#dragged = false;
  }

  #onMove(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.#pointers.values()].filter((each) => each.pointerId !== event.pointerId);
    if (others.length === 1) {
      const [other] = others;
      const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY) || 1;
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.by(apart(event) / apart(before), middle);
      this.#pan((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
    } else if (this.#scale > 1) {
      if (!this.#dragged) this.#stageOf(event)?.setPointerCapture(event.pointerId);
      this.#dragged = true;
      this.#pan(event.clientX - before.clientX, event.clientY - before.clientY);
    }
    this.#pointers.set(event.pointerId, event);
  }

  #onUp(event) {
    this.#pointers.delete(event.pointerId);
  }
}

/** Enlarged, the image itself is shown, with all the pixels there are. */
async function sharpen(stage) {
  const picture = stage.querySelector("img.picture");
  if (!picture || stage.classList.contains("sharp")) return;
  if (picture.dataset.original) {
    const whole = new Image();
    whole.src = picture.dataset.original;
    await whole.decode().then(() => {
      picture.src = picture.dataset.original;
      delete picture.dataset.original;
    }, () => {});
  }
  await picture.decode().catch(() => {});
  if (stage.classList.contains("enlarged")) stage.classList.add("sharp");
}
