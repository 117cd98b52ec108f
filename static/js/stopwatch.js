// How long somebody looked at an image. Between two signs of life (a key, the pointer, the wheel) the whole time counts,
// up to half a minute: who thinks does not move. A longer silence is a break, and none of it counts; nor does time in a
// hidden tab. Where nothing but breaks lies between an image and its answer, nobody knows how long it took.

export const BREAK_MS = 30_000;

export class Stopwatch {
  #counted = 0;
  #since = null;
  #now;

  constructor(now = () => performance.now()) {
    this.#now = now;
    document.addEventListener("visibilitychange", () => this.touch());
    for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) {
      document.addEventListener(kind, () => this.touch(), { passive: true, capture: true });
    }
  }

  start() {
    this.#counted = 0;
    this.#since = this.#time();
  }

  /** Whole milliseconds since start; null when they cannot be told. */
  read() {
    this.touch();
    return this.#counted > 0 ? Math.round(this.#counted) : null;
  }

  touch() {
    // The tab was visible since the last touch exactly when that touch left a time.
    if (this.#since !== null) {
      const passed = this.#now() - this.#since;
      if (passed <= BREAK_MS) this.#counted += passed;
    }
    this.#since = this.#time();
  }

  #time() {
    return document.visibilityState === "visible" ? this.#now() : null;
  }
}
