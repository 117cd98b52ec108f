// Answers that the server refused: shown with the image and a choice until the person has settled each.

import { gettext, interpolate, ngettext } from "./words.js";

/** The refused answers over the deck, the oldest first, one at a time.
 *
 *  cardOf(item): the image's card where the person holds it; bring(card): put it in front to be answered anew;
 *  again(conflict): send the same answer once more; leave(conflict): let it go. */
export class Conflicts {
  #box = document.getElementById("conflicts");
  #choices;
  #shown = "";

  constructor(choices) {
    this.#choices = choices;
  }

  show(conflicts) {
    const [first] = conflicts;
    const card = first && this.#choices.cardOf(first.item);
    const shown = first ? `${first.key}:${first.refused.text}:${conflicts.length}:${Boolean(card)}` : "";
    if (shown === this.#shown) return; // a screen reader would read it again, and a finger would miss the button
    this.#shown = shown;
    this.#box.hidden = !first;
    this.#box.replaceChildren(...(first ? this.#parts(first, card, conflicts.length) : []));
  }

  #parts(conflict, card, count) {
    const picture = document.createElement("img");
    Object.assign(picture, { src: conflict.thumbnail, alt: "", width: 56, height: 56, className: "picture" });
    const words = document.createElement("p");
    const said = document.createElement("strong");
    said.textContent = interpolate(gettext("Your answer “%(name)s” was not saved."), { name: conflict.name });
    const why = document.createElement("span");
    // The server's sentence ends with what the words before it and the buttons behind it say.
    const [reason] = conflict.refused.text.split(/;[^;]*$/);
    why.textContent = ` ${sentence(reason)} ${outlook(conflict, card)}`;
    words.append(said, why);
    if (count > 1) {
      const more = document.createElement("span");
      more.className = "hint";
      more.textContent = ` ${interpolate(ngettext("%(n)s more", "%(n)s more", count - 1), { n: count - 1 })}`;
      words.append(more);
    }
    const buttons = document.createElement("p");
    buttons.className = "row";
    if (card) buttons.append(button(gettext("Answer again"), () => this.#choices.bring(card), "primary"));
    else if (conflict.refused.code === "lease_lost") {
      buttons.append(button(gettext("Send it again"), () => this.#choices.again(conflict)));
    }
    buttons.append(button(gettext("Leave it"), () => this.#choices.leave(conflict)));
    return [picture, words, buttons];
  }
}

/** What the choices come to. */
function outlook({ refused }, card) {
  if (card) return gettext("You still have the image.");
  if (refused.code === "lease_lost") return gettext("Sent again, it counts if the image is free by then.");
  return gettext("The image is back in the queue.");
}

function button(text, press, kind = "") {
  const made = document.createElement("button");
  made.type = "button";
  made.className = `button small ${kind}`;
  made.textContent = text;
  made.addEventListener("click", press);
  return made;
}

function sentence(text) {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}
