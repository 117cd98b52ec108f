// Many classes: type a part of the name. First comes what is most likely, where the page may say so, then what is used
// most, then the alphabet; a name that begins with what was typed before one that only has it inside.

/** Make the field of the choices work; choose(button) is called with what was chosen, likely() gives class ids. */
export function setUpFind(choose, likely) {
  const find = document.getElementById("find");
  if (!find) return;
  const choices = document.getElementById("choices");
  const list = choices.querySelector(".choice-list");
  const buttons = [...list.children];
  const names = new Map(buttons.map((button) => [button, button.dataset.name.toLowerCase()]));
  const uses = new Map((choices.dataset.uses ?? "").split(" ").map((each) => each.split(":")));
  let found = [];
  let at = 0;

  find.hidden = false;
  const rank = (wanted) => {
    const first = likely().map(String);
    const place = (button) => {
      const id = button.value.split(":")[1];
      const guess = first.indexOf(id);
      return [wanted && !names.get(button).startsWith(wanted) ? 1 : 0, guess < 0 ? first.length : guess, -(uses.get(id) ?? 0)];
    };
    const places = new Map(buttons.map((button) => [button, place(button)]));
    return buttons.filter((button) => names.get(button).includes(wanted)).sort((one, other) => {
      const [a, b] = [places.get(one), places.get(other)];
      return a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || names.get(one).localeCompare(names.get(other));
    });
  };
  const mark = () => {
    for (const button of buttons) button.classList.toggle("chosen", button === found[at]);
    found[at]?.scrollIntoView({ block: "nearest" });
  };
  const narrow = () => {
    found = rank(find.value.trim().toLowerCase());
    at = 0;
    for (const button of buttons) button.hidden = !found.includes(button);
    list.append(...found);
    mark();
  };
  const clear = () => {
    find.value = "";
    for (const button of buttons) {
      button.hidden = false;
      button.classList.remove("chosen");
    }
    list.append(...buttons); // every class where the eye expects it
    find.blur();
  };
  find.addEventListener("focus", narrow);
  find.addEventListener("input", narrow);
  find.addEventListener("blur", (event) => !choices.contains(event.relatedTarget) && !find.value && clear());
  choices.addEventListener("click", (event) => event.target.closest(".choice") && find.value && setTimeout(clear));
  find.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") clear();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      at = Math.min(found.length - 1, Math.max(0, at + (event.key === "ArrowDown" ? 1 : -1)));
      mark();
    } else if (event.key === "Enter") {
      const chosen = found[at];
      clear();
      if (chosen) choose(chosen);
    } else return;
    event.preventDefault();
  });
}
