// A closer look: + and -, or a double click where one wants to see more.

const LEVELS = [1, 2, 4];

export function zoom(deck, step, at) {
  const stage = deck.querySelector("[data-front] .stage");
  if (!stage) return;
  const level = LEVELS.indexOf(Number(stage.dataset.zoom ?? 1)) + step;
  if (level < 0 || level >= LEVELS.length) return;
  const box = stage.getBoundingClientRect();
  const x = at ? (at.clientX - box.left + stage.scrollLeft) / stage.scrollWidth : 0.5;
  const y = at ? (at.clientY - box.top + stage.scrollTop) / stage.scrollHeight : 0.5;
  stage.dataset.zoom = LEVELS[level];
  stage.scrollTo(x * stage.scrollWidth - box.width / 2, y * stage.scrollHeight - box.height / 2);
}

export function zoomByDoubleClick(deck) {
  deck.addEventListener("dblclick", (event) => {
    const stage = event.target.closest(".stage");
    if (stage) zoom(deck, stage.dataset.zoom === "4" ? -2 : 1, event);
  });
}
