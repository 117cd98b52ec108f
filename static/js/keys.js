// Which key was pressed, when it was meant for the page.

/** The key in lower case; null while somebody types, holds it down, uses a modifier or has a dialog open. */
export function plainKey(event) {
  if (event.defaultPrevented || event.repeat || event.isComposing) return null;
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  if (document.querySelector("dialog[open]")) return null;
  if (isTyping(event.target)) return null;
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

function isTyping(target) {
  if (!(target instanceof Element)) return false;
  if (target.closest("textarea, select, [contenteditable]")) return true;
  const input = target.closest("input");
  return input !== null && !["checkbox", "radio", "button", "submit", "range"].includes(input.type);
}

/** Make the button and the dialog of keys work. Returns the function that opens it. */
export function keyHelp() {
  const dialog = document.getElementById("help");
  const open = () => dialog.showModal();
  document.addEventListener("click", (event) => {
    if (event.target.closest("#help-button")) open();
    else if (event.target === dialog) dialog.close();
  });
  showHelpButton();
  return open;
}

/** The button is hidden in the page as it comes: without this module it does nothing. */
export function showHelpButton() {
  const button = document.getElementById("help-button");
  if (button) button.hidden = false;
}
