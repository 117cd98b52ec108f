// Sending many files in small requests, one after the other. A request that fails is tried again; one that the server
// refuses is taken apart, so that a single bad file holds up nobody but itself.
//
// Every file has a `state`: waiting, sending, done, failed (with `why`). Only names and handles are kept in memory, the
// bytes are read by the browser as it sends them.

import { newUuid } from "./sending.js";
import { gettext, interpolate } from "./words.js";

const FILES_PER_BATCH = 16;
const BYTES_PER_BATCH = 16 * 2 ** 20;
const IMAGE_BYTES = 50 * 2 ** 20;
const TRIES = 3;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;

export class Upload {
  collection = newUuid();
  entries = [];
  /** Why nothing is being sent though something waits: offline, signed-out, denied or trouble; else null. */
  obstacle = null;
  #post;
  #look;
  #changed;
  #batch = 0;
  #isRunning = false;
  #isCancelled = false;
  #abort = null;
  #wake = null;
  #waitMs = FIRST_WAIT_MS;

  /** post(fields, files, progress) and look() as in importing.js; changed() after everything that can be seen. */
  constructor({ post, look, changed }) {
    this.#post = post;
    this.#look = look;
    this.#changed = changed;
  }

  add(files) {
    for (const { file, path } of files) {
      const entry = { file, path, size: file.size, sent: 0, state: "waiting", why: "", tries: 0 };
      const isZip = /\.zip$/i.test(file.name);
      if (!file.size) fail(entry, gettext("It is empty."));
      else if (!isZip && file.size > IMAGE_BYTES) fail(entry, gettext("It is larger than 50 MB."));
      this.entries.push(entry);
    }
    this.#changed();
  }

  remove(entry) {
    if (entry.state === "waiting") this.entries.splice(this.entries.indexOf(entry), 1);
    this.#changed();
  }

  count = (state) => this.entries.filter((entry) => entry.state === state).length;
  get bytes() { return this.entries.reduce((sum, entry) => sum + (entry.state === "failed" ? 0 : entry.size), 0); }
  get bytesSent() { return this.entries.reduce((sum, entry) => sum + entry.sent, 0); }
  get isRunning() { return this.#isRunning; }
  get isCancelled() { return this.#isCancelled; }

  /** Resolves when nothing waits any more, or it was cancelled. */
  async run() {
    if (this.#isRunning) return;
    this.#isRunning = true;
    while (!this.#isCancelled) {
      const batch = this.#next();
      if (!batch.length) break;
      await this.#send(batch);
      this.#changed();
    }
    this.#isRunning = false;
    this.#changed();
  }

  cancel() {
    this.#isCancelled = true;
    this.#abort?.abort();
    this.#wake?.();
  }

  /** Do not wait any longer for the next try. */
  goOn() {
    this.#wake?.();
  }

  again() {
    for (const entry of this.entries) {
      if (entry.state === "failed") Object.assign(entry, { state: "waiting", why: "", tries: 0 });
    }
    this.#changed();
  }

  #next() {
    const waiting = this.entries.filter((entry) => entry.state === "waiting");
    if (waiting[0]?.tries >= TRIES) return waiting.slice(0, 1);
    const batch = [];
    let bytes = 0;
    for (const entry of waiting) {
      if (entry.tries >= TRIES || (batch.length && bytes + entry.size > BYTES_PER_BATCH)) break;
      batch.push(entry);
      bytes += entry.size;
      if (batch.length === FILES_PER_BATCH) break;
    }
    return batch;
  }

  async #send(batch) {
    const readable = [];
    for (const entry of batch) {
      if (await isReadable(entry.file)) readable.push(entry);
      else fail(entry, gettext("It can no longer be read from this disk."));
    }
    if (!readable.length || this.#isCancelled) return;
    for (const entry of readable) entry.state = "sending";
    this.#changed();
    this.#abort = new AbortController();
    const fields = { collection: this.collection, batch: this.#batch, paths: JSON.stringify(readable.map(({ path }) => path)) };
    const result = await this.#post(fields, readable.map(({ file }) => file), this.#abort.signal, (share) => {
      this.#spread(readable, share);
    });
    if (result.outcome === "done") {
      this.#batch += 1;
      this.#waitMs = FIRST_WAIT_MS;
      this.obstacle = null;
      for (const entry of readable) Object.assign(entry, { state: "done", sent: entry.size });
      return;
    }
    for (const entry of readable) Object.assign(entry, { state: "waiting", sent: 0 });
    if (!this.#isCancelled) await this.#recover(readable, result);
  }

  /** How far each file of a request is: they lie in it one behind the other. */
  #spread(batch, share) {
    let left = share * batch.reduce((sum, { size }) => sum + size, 0);
    for (const entry of batch) {
      entry.sent = Math.min(entry.size, Math.max(0, left));
      left -= entry.size;
    }
    this.#changed();
  }

  async #recover(batch, { outcome, why }) {
    if (outcome === "refused") {
      // The server read it and will not have it: alone each file is judged by itself.
      if (batch.length === 1) return fail(batch[0], why);
      for (const entry of batch) entry.tries = TRIES;
      return;
    }
    if (outcome === "trouble") {
      for (const entry of batch) entry.tries += 1;
      if (batch.length === 1 && batch[0].tries > TRIES) {
        return fail(batch[0], interpolate(gettext("The server has a problem with it (%(status)s)."), { status: why }));
      }
    }
    this.obstacle = outcome;
    this.#changed();
    if (outcome === "denied") {
      this.#isCancelled = true;
      return;
    }
    do {
      await this.#rest();
      this.obstacle = this.#isCancelled ? null : await this.#look();
      this.#changed();
    } while (this.obstacle === "offline" || this.obstacle === "signed-out");
    if (this.obstacle === "denied") this.#isCancelled = true;
  }

  /** Wait for a while, for the network, or for somebody who does not want to wait. */
  async #rest() {
    const waitMs = this.#waitMs;
    this.#waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2);
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, waitMs);
      addEventListener("online", resolve, { once: true });
    });
    this.#wake = null;
  }
}

function fail(entry, why) {
  Object.assign(entry, { state: "failed", why, sent: 0 });
}

async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
