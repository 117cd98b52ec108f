// The tabs above every page of a project.

/** How many proposals wait for review, on the tab that leads there; nothing for people who have no such tab. */
export function showWaiting(count) {
  const badge = document.getElementById("review-count");
  if (!badge || count === undefined) return;
  badge.firstElementChild.textContent = count;
  badge.hidden = count === "0";
}
