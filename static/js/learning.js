// The line above the image: how far the work is, what the model has learnt, and the note when it has learnt anew.

import { look } from "./sending.js";
import { showWaiting } from "./tabs.js";
import { gettext, interpolate, ngettext } from "./words.js";

const TOAST_MS = 9000;

export class Learning {
  #address;
  #timer = 0;
  #toastTimer = 0;
  #polls = 0;

  constructor(address) {
    this.#address = address;
    this.#watch();
  }

  /** Take in the progress that came with an answer. */
  take(part) {
    const fresh = part.getElementById("progress");
    if (!fresh) return;
    const stale = document.getElementById("progress");
    this.#tell(stale.dataset, fresh.dataset, fresh.querySelector(".phase").textContent);
    stale.replaceWith(document.adoptNode(fresh));
    showWaiting(fresh.dataset.waiting);
    this.#watch();
  }

  #watch() {
    clearTimeout(this.#timer);
    if (!document.getElementById("progress").dataset.learns) this.#polls = 0;
    // Learning takes a second or two; somebody who waits for it should see it end.
    else this.#timer = setTimeout(() => this.#poll(), this.#polls++ < 60 ? 1000 : 5000);
  }

  async #poll() {
    if (document.visibilityState === "visible") {
      const result = await look(this.#address);
      if (result.part) return this.take(result.part);
    }
    this.#timer = setTimeout(() => this.#poll(), 5000);
  }

  #tell(before, after, phase) {
    if (after.model === before.model || after.model === "0") return;
    const toast = document.getElementById("toast");
    toast.replaceChildren(...lines(before, after, phase).map((line, index) => {
      const element = document.createElement(index ? "span" : "strong");
      element.textContent = line;
      return element;
    }));
    toast.classList.add("shown");
    clearTimeout(this.#toastTimer);
    this.#toastTimer = setTimeout(() => toast.classList.remove("shown"), TOAST_MS);
  }
}

function lines(before, after, phase) {
  const { model, labels, estimate, interval } = after;
  const said = labels === "0"
    ? interpolate(gettext("Model %(model)s compares images with the class names"), { model })
    : interpolate(ngettext("Model %(model)s learnt from %(labels)s answer", "Model %(model)s learnt from %(labels)s answers", Number(labels)), { model, labels });
  const found = [said];
  if (estimate && before.estimate && estimate !== before.estimate) {
    found.push(interpolate(gettext("%(before)s → %(estimate)s right on random checks, 95 % sure: %(interval)s"), { before: before.estimate, estimate, interval }));
  } else if (estimate) {
    found.push(interpolate(gettext("%(estimate)s right on random checks, 95 % sure: %(interval)s"), { estimate, interval }));
  } else if (Number(after.checks)) {
    const n = Number(after.checks);
    found.push(interpolate(ngettext("%(n)s answer was to a random check, which it never learns from", "%(n)s answers were to random checks, which it never learns from", n), { n }));
  }
  found.push(interpolate(gettext("The queue is ranked anew. %(phase)s"), { phase }));
  return found;
}
