// Answers the server has not acknowledged yet. They lie in localStorage, one key each, so that a reload, a crash or
// an expired session loses none; all tabs of one person share them, and one tab at a time sends them, in order.
// Sending one twice does no harm: the server knows each by its UUID.

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;

export class Outbox {
  #prefix;
  #post;
  #settled;
  #changed;
  #memory = new Map(); // where the browser refuses storage
  #lastStamp = 0;
  #timer = 0;
  #waitMs = FIRST_WAIT_MS;
  #isSending = false;
  /** Why the oldest entry could not be sent: an outcome of sending.js, or null while all goes well. */
  obstacle = null;

  /** post(entry) resolves to an outcome; settled(entry, outcome) is told once the entry is out; changed() always. */
  constructor(name, { post, settled, changed }) {
    this.#prefix = `winnow:${name}:`;
    this.#post = post;
    this.#settled = settled;
    this.#changed = changed;
    window.addEventListener("online", () => this.retry());
    window.addEventListener("focus", () => this.obstacle && this.retry());
    window.addEventListener("pagehide", () => this.#sendLeaving());
    window.addEventListener("storage", (event) => {
      if (event.key?.startsWith(this.#prefix)) changed(event.newValue && JSON.parse(event.newValue));
    });
  }

  /** Whether answers would be lost when this page is closed now. */
  get isForgetful() {
    return this.#memory.size > 0;
  }

  entries() {
    const keys = [...this.#memory.keys()];
    try {
      keys.push(...Object.keys(localStorage).filter((key) => key.startsWith(this.#prefix)));
    } catch { /* refused: memory is all there is */ }
    return keys.sort().map((key) => this.#read(key)).filter(Boolean);
  }

  add(entry) {
    // Sorted by time; two entries of one millisecond keep their order.
    this.#lastStamp = Math.max(Date.now(), this.#lastStamp + 1);
    const stored = { ...entry, key: `${this.#prefix}${this.#lastStamp}-${entry.uuid}`, at: this.#lastStamp };
    try {
      localStorage.setItem(stored.key, JSON.stringify(stored));
    } catch {
      this.#memory.set(stored.key, stored);
    }
    this.#changed();
    this.send();
  }

  remove(entry) {
    this.#memory.delete(entry.key);
    try {
      localStorage.removeItem(entry.key);
    } catch { /* it never was there */ }
  }

  retry() {
    this.#waitMs = FIRST_WAIT_MS;
    this.send();
  }

  async send() {
    if (this.#isSending) return;
    clearTimeout(this.#timer);
    this.#isSending = true;
    try {
      // Web locks exist only on https and this machine itself; without them two tabs may send the same, harmlessly.
      if (navigator.locks) {
        await navigator.locks.request(this.#prefix, { ifAvailable: true }, (lock) => lock && this.#sendAll());
      } else {
        await this.#sendAll();
      }
    } finally {
      this.#isSending = false;
    }
    this.#changed();
    if (this.entries().length) {
      this.#timer = setTimeout(() => this.send(), this.#waitMs);
      if (this.obstacle) this.#waitMs = Math.min(2 * this.#waitMs, LONGEST_WAIT_MS);
    }
  }

  async #sendAll() {
    for (let entry = this.entries()[0]; entry; entry = this.entries()[0]) {
      const result = await this.#post(entry);
      if (result.outcome !== "done" && result.outcome !== "refused") {
        this.obstacle = result;
        return;
      }
      this.obstacle = null;
      this.#waitMs = FIRST_WAIT_MS;
      this.remove(entry);
      if (result.outcome === "refused") this.#dropUndoOf(entry);
      this.#settled(entry, result);
      this.#changed();
    }
  }

  // The page is being left: everything goes out at once, and stays stored, since nobody is there to hear what became of
  // it. Only up to the first undo, which must not overtake the answer it takes back; and not past an obstacle.
  #sendLeaving() {
    if (this.obstacle) return;
    for (const entry of this.entries()) {
      if (entry.undo) return;
      this.#post(entry);
    }
  }

  // Taking back an answer that never counted would take back the one before it.
  #dropUndoOf(refused) {
    for (const entry of this.entries()) if (entry.undoes === refused.uuid) this.remove(entry);
  }

  #read(key) {
    if (this.#memory.has(key)) return this.#memory.get(key);
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  }
}
