// Answers the server has not acknowledged yet, and answers it refused until the person has settled what becomes of
// them. They are kept in the browser, so that a reload, a crash or an expired session loses none; all tabs of one person
// share them, and one tab at a time sends them, in order. Sending one twice does no harm: the server knows each by its
// UUID.

import { Store } from "./store.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 10_000;
const TOGETHER = 10; // answers in one request, where several wait: a slow line would otherwise hold the next images up
const ORPHANED_MS = 5000; // without locks a tab leaves the entries of others alone for so long

export class Outbox {
  #name;
  #store;
  #others;
  #post;
  #settled;
  #changed;
  #rows = new Map(); // what is in the store, and what should be
  #unkept = new Set();
  #gone = new Set(); // keys removed while the store was still being read
  #lastStamp = 0;
  #timer = 0;
  #waitMs = FIRST_WAIT_MS;
  #isSending = false;
  #tab = Math.random().toString(36).slice(2);
  /** Why the oldest entry could not be sent: an outcome of sending.js, or null while all goes well. */
  obstacle = null;
  /** Resolves once what earlier pages left is there. */
  ready;

  /** post(entries) resolves to an outcome, in which `refusals` has {code, text} by UUID; settled(entries, outcome) is
   *  told once they are out; changed(row) always, with the row when another tab brought it. */
  constructor(name, { post, settled, changed }) {
    this.#name = `winnow:${name}`;
    this.#store = new Store(this.#name);
    this.#post = post;
    this.#settled = settled;
    this.#changed = changed;
    this.#others = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel(this.#name);
    this.#others?.addEventListener("message", ({ data }) => this.#hear(data));
    this.ready = this.#read();
    window.addEventListener("online", () => this.retry());
    window.addEventListener("focus", () => this.obstacle && this.retry());
    window.addEventListener("pagehide", () => this.#sendLeaving());
    window.addEventListener("pageshow", (event) => event.persisted && this.#read());
  }

  /** Whether answers would be lost when this page is closed now. */
  get isForgetful() {
    return this.#unkept.size > 0;
  }

  /** What is on its way or waits to be sent, oldest first. */
  entries() {
    return this.#sorted((row) => !row.refused);
  }

  /** What the server refused, oldest first: each has `refused`, {code, text}. */
  conflicts() {
    return this.#sorted((row) => row.refused);
  }

  add(entry) {
    // Sorted by time; two entries of one millisecond keep their order.
    this.#lastStamp = Math.max(Date.now(), this.#lastStamp + 1);
    const key = `${String(this.#lastStamp).padStart(15, "0")}-${entry.uuid}`;
    this.#keep({ ...entry, key, at: this.#lastStamp, tab: this.#tab });
    this.#changed();
    this.send();
  }

  /** Try a refused answer once more, behind what waits. The server never stored it, so its UUID is still free. */
  again(conflict) {
    const { refused, key, at, ...entry } = conflict;
    this.remove(conflict);
    this.add(entry);
  }

  remove(row) {
    this.#rows.delete(row.key);
    this.#unkept.delete(row.key);
    this.#gone.add(row.key);
    this.#store.remove(row.key);
    this.#others?.postMessage({ gone: row.key });
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
      await this.ready;
      // Web locks exist only on https and this machine itself.
      if (navigator.locks) await navigator.locks.request(this.#name, () => this.#sendAll());
      else await this.#sendAll();
    } finally {
      this.#isSending = false;
    }
    this.#changed();
    if (this.entries().length) {
      this.#timer = setTimeout(() => {
        if (this.obstacle) this.#waitMs = Math.min(2 * this.#waitMs, LONGEST_WAIT_MS);
        this.send();
      }, this.#waitMs);
    }
  }

  async #sendAll() {
    for (let batch = this.#next(); batch.length; batch = this.#next()) {
      const result = await this.#post(batch);
      if (result.outcome !== "done" && result.outcome !== "refused") {
        this.obstacle = result;
        return;
      }
      this.obstacle = null;
      this.#waitMs = FIRST_WAIT_MS;
      for (const entry of batch) this.#close(entry, result);
      this.#settled(batch, result);
      this.#changed();
    }
  }

  /** What goes next: an undo by itself, or the answers up to the next one. */
  #next() {
    const entries = this.entries();
    const [oldest] = entries;
    if (!oldest) return [];
    const isOrphan = Date.now() - oldest.at > ORPHANED_MS;
    if (!navigator.locks && oldest.tab !== this.#tab && !isOrphan) return [];
    return oldest.undo ? [oldest] : this.#answersFirst(entries);
  }

  #answersFirst(entries) {
    const undo = entries.findIndex((entry) => entry.undo);
    return entries.slice(0, Math.min(undo < 0 ? entries.length : undo, TOGETHER));
  }

  #close(entry, result) {
    const refusal = result.refusals?.get(entry.uuid) ?? (result.outcome === "refused" ? result : null);
    if (!refusal || entry.undo) return this.remove(entry);
    // Taken back by the person meanwhile: then nothing is missing, and nothing is left to take back.
    const undos = this.entries().filter((each) => each.undoes === entry.uuid);
    undos.forEach((each) => this.remove(each));
    if (undos.length) return this.remove(entry);
    entry.refused = { code: refusal.code, text: refusal.text };
    this.#keep(entry);
  }

  // The page is being left: everything goes out at once, and stays stored, since nobody is there to hear what became of
  // it. Only up to the first undo, which must not overtake the answer it takes back; and not past an obstacle.
  #sendLeaving() {
    const answers = this.obstacle ? [] : this.#answersFirst(this.entries());
    if (answers.length) this.#post(answers);
  }

  #sorted(isWanted) {
    return [...this.#rows.values()].filter(isWanted).sort((one, other) => (one.key < other.key ? -1 : 1));
  }

  #keep(row) {
    this.#rows.set(row.key, row);
    this.#others?.postMessage({ row });
    this.#store.put(row).then((isKept) => {
      if (isKept || !this.#rows.has(row.key)) this.#unkept.delete(row.key);
      else this.#unkept.add(row.key);
      if (!isKept) this.#changed();
    });
  }

  #hear({ row, gone }) {
    if (row) this.#rows.set(row.key, row);
    else {
      this.#rows.delete(gone);
      this.#gone.add(gone);
    }
    this.#changed(row ?? null);
  }

  async #read() {
    this.#gone.clear();
    for (const row of await this.#store.all()) {
      if (!this.#rows.has(row.key) && !this.#gone.has(row.key)) this.#rows.set(row.key, row);
    }
  }
}
