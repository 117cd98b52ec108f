// Every page. On a narrow screen the tab that is open is moved into sight, clear of the faded edge.

const tab = document.querySelector(".tabs a[aria-current]");
if (tab) {
  const bar = tab.closest(".tabs");
  bar.scrollLeft = tab.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;
}

// What scrolls sideways is reached by keyboard, too, as long as there is something to scroll to.
const wide = (within) => [...within.querySelectorAll(".scroll-x, .code")];
const watch = new ResizeObserver((seen) => {
  for (const { target } of seen) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
const watchAll = () => wide(document).forEach((each) => watch.observe(each));
watchAll();
document.addEventListener("htmx:afterSettle", watchAll);
