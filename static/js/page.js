// Every page: on a narrow screen the tab that is open is moved into sight, clear of the faded edge.

const tab = document.querySelector(".tabs a[aria-current]");
if (tab) {
  const bar = tab.closest(".tabs");
  bar.scrollLeft = tab.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;
}
