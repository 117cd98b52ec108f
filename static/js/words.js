// What the scripts say, in the language of the page. The English text is its own key; base.html brings the others.

const block = document.getElementById("words");
const { texts, plurals } = block ? JSON.parse(block.textContent) : { texts: {}, plurals: "" };

export const gettext = (text) => texts[text] ?? text;

/** The form for n of them: `ngettext("%(n)s image", "%(n)s images", 3)`, still to be interpolated. */
export function ngettext(one, many, n) {
  const forms = texts[one];
  if (!Array.isArray(forms)) return n === 1 ? one : many;
  // Which form a number takes, for 0 to 199; from there on every language goes by the last two digits.
  return forms[Number(plurals[n < 200 ? n : 100 + (n % 100)])];
}

/** Fill in `%(name)s`. */
export const interpolate = (text, values) => text.replace(/%\((\w+)\)s/g, (_, name) => values[name]);
