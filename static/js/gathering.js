// Which files somebody means who drops or chooses some: folders are walked through, what no import could use is left
// out and counted.

const USABLE = /\.(zip|png|jpe?g|webp|gif|bmp|tiff?)$/i;
const LITTER = /^(\.|__MACOSX$|thumbs\.db$|desktop\.ini$)/i;

/** Everything that was dropped, as {file, path}; a folder that cannot be read is in `unread`. */
export async function dropped(transfer) {
  // The entries must be taken before the first await: the list is empty afterwards.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = { files: [], leftOut: 0, unread: [] };
  if (!entries.length) for (const file of transfer.files) take(found, file, file.name);
  for (const entry of entries) await walk(entry, found);
  return found;
}

/** What a file field holds. */
export function chosen(files) {
  const found = { files: [], leftOut: 0, unread: [] };
  for (const file of files) take(found, file, file.webkitRelativePath || file.name);
  return found;
}

function take(found, file, path) {
  if (path.split("/").some((part) => LITTER.test(part)) || !USABLE.test(file.name)) found.leftOut += 1;
  else found.files.push({ file, path });
}

async function walk(entry, found) {
  const path = entry.fullPath.replace(/^\//, "");
  try {
    if (entry.isFile) {
      take(found, await new Promise((resolve, reject) => entry.file(resolve, reject)), path);
    } else if (!LITTER.test(entry.name)) {
      const reader = entry.createReader();
      // A browser hands out at most 100 entries at a time, and an empty list at the end.
      for (let some = await read(reader); some.length; some = await read(reader)) {
        for (const each of some) await walk(each, found);
      }
    }
  } catch {
    found.unread.push(path);
  }
}

const read = (reader) => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
