// What a point's colour stands for, and the list beside the sheet that says so. No colour speaks alone: each line of
// the list picks out its own points, and whatever is pointed at is named.

import { gettext, interpolate } from "./words.js";

// From sure to unsure, lighter or darker than either ground; each step differs in lightness.
const DOUBTS = ["#2c7fb8", "#41a6a0", "#a0b83a", "#e0902f", "#d1495b"];
const STATES = { open: "#8a949c", labelled: "#12917e", none_of_these: "#7d6bb3", skipped: "#c98a1b", accepted: "#3f8fc4", check: "#c2408f" };
const NOTHING = "#8a949c";

const stateTitles = () => ({
  open: gettext("Not labelled"),
  labelled: gettext("Labelled"),
  none_of_these: gettext("None of these"),
  skipped: gettext("Skipped"),
  accepted: gettext("Accepted unseen"),
  check: gettext("Answered random check"),
});

/** {group: Uint16Array of each point's line, lines: [{title, colour, count}]} of one way to colour. */
export function colouring(points, by) {
  const group = new Uint16Array(points.n);
  let lines;
  if (by === "state") {
    const titles = stateTitles();
    lines = points.states.map((name) => ({ title: titles[name], colour: STATES[name] }));
    group.set(points.state);
  } else if (by === "doubt") {
    lines = DOUBTS.map((colour, step) => ({
      colour,
      title: interpolate(gettext("%(low)s to %(high)s sure"), {
        low: `${Math.round(100 - 20 * (step + 1))}\u00a0%`,
        high: `${Math.round(100 - 20 * step)}\u00a0%`,
      }),
    }));
    lines.push({ title: gettext("nothing said"), colour: NOTHING });
    for (let i = 0; i < points.n; i += 1) {
      group[i] = points.said[i] ? Math.min(DOUBTS.length - 1, Math.floor((1 - points.sure[i]) * DOUBTS.length)) : DOUBTS.length;
    }
  } else {
    const none = by === "said" ? gettext("nothing said") : gettext("no label");
    lines = [{ title: none, colour: NOTHING }, ...points.classes.map((each) => ({ title: each.name, colour: each.colour }))];
    group.set(by === "said" ? points.said : points.label);
  }
  for (const line of lines) line.count = 0;
  for (let i = 0; i < points.n; i += 1) lines[group[i]].count += 1;
  return { group, lines };
}

/** Fills the list; choose(line or null) is called when a line is picked out. */
export function showLegend(list, lines, picked, choose) {
  list.replaceChildren(
    ...lines.flatMap((line, place) => {
      if (!line.count) return [];
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(picked === place));
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      for (const [name, value] of Object.entries({ width: 12, height: 12, "aria-hidden": "true" })) dot.setAttribute(name, value);
      const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      for (const [name, value] of Object.entries({ cx: 6, cy: 6, r: 5, fill: line.colour })) circle.setAttribute(name, value);
      dot.append(circle);
      const [title, count] = [document.createElement("span"), document.createElement("span")];
      [title.textContent, count.textContent] = [line.title, line.count.toLocaleString("en")];
      title.className = "clip";
      count.className = "number";
      button.append(dot, title, count);
      button.addEventListener("click", () => choose(picked === place ? null : place));
      item.append(button);
      return [item];
    }),
  );
}

export const describe = (points, i) => {
  const said = [stateTitles()[points.states[points.state[i]]]];
  if (points.label[i]) said.push(interpolate(gettext("label: %(name)s"), { name: points.classes[points.label[i] - 1].name }));
  if (points.said[i]) {
    const sure = `${Math.round(100 * points.sure[i])}\u00a0%`;
    said.push(interpolate(gettext("the model: %(name)s, about %(sure)s sure"), { name: points.classes[points.said[i] - 1].name, sure }));
  }
  return said;
};
