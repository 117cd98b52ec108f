// Rows that outlive the page, in IndexedDB. Rows have a `key`. Whatever the browser refuses (private windows, a full
// disk) is said, not thrown: the caller keeps its own copy and tells the person.

const OPENING_MS = 2000; // some private windows never answer
const TABLE = "rows";

export class Store {
  #database;

  constructor(name) {
    this.#database = open(name).catch(() => null);
  }

  /** All rows in the order of their keys; none where the browser refuses. */
  async all() {
    const rows = await this.#run("readonly", (table) => table.getAll());
    return rows || [];
  }

  /** Whether it is kept now. */
  async put(row) {
    return (await this.#run("readwrite", (table) => table.put(row))) !== false;
  }

  async remove(key) {
    return (await this.#run("readwrite", (table) => table.delete(key))) !== false;
  }

  /** What one request on the table resulted in; false when it could not be done. */
  async #run(mode, ask) {
    const database = await this.#database;
    if (!database) return false;
    return new Promise((resolve) => {
      try {
        // Strict: on the disk, not in its cache. Nobody waits for it.
        const transaction = database.transaction(TABLE, mode, { durability: "strict" });
        const request = ask(transaction.objectStore(TABLE));
        transaction.oncomplete = () => resolve(request.result);
        transaction.onabort = transaction.onerror = () => resolve(false);
        transaction.commit?.(); // a page that is being left does not wait for the answer
      } catch {
        resolve(false);
      }
    });
  }
}

function open(name) {
  return new Promise((resolve, reject) => {
    setTimeout(reject, OPENING_MS);
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = reject;
  });
}
