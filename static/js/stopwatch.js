// How long somebody looked: time in a hidden tab does not count, nor does time in which nothing moved for a minute.

const IDLE_MS = 60_000;

export class Stopwatch {
  #counted = 0;
  #since = 0;

  constructor() {
    document.addEventListener("visibilitychange", () => this.touch());
    for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) {
      document.addEventListener(kind, () => this.touch(), { passive: true, capture: true });
    }
  }

  start() {
    this.#counted = 0;
    this.#since = this.#now();
  }

  /** Whole milliseconds since start. */
  read() {
    this.touch();
    return Math.round(this.#counted);
  }

  touch() {
    // The tab was visible since the last touch exactly when that touch left a time.
    if (this.#since) this.#counted += Math.min(performance.now() - this.#since, IDLE_MS);
    this.#since = this.#now();
  }

  #now() {
    return document.visibilityState === "visible" ? performance.now() : 0;
  }
}
