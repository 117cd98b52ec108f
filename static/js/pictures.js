// Pictures that are ready before they are asked for. Browsers drop what they decoded and did not show yet, and decode
// large pictures when they are painted; so a large one is brought to the size of the stage by a worker, and lies in a
// canvas in the image's place until somebody looks closer.

const SMALL_PIXELS = 300_000; // decoded and scaled within a frame
const WORKING_MS = 15_000;

let worker = null;
let asked = 0;
const awaited = new Map();

/** Load and decode a card's picture; resolves when it can be shown, rejects when it cannot. */
export async function ready(card, box) {
  const picture = card.querySelector("img.picture");
  if (!picture) return;
  const isLarge = picture.getAttribute("width") * picture.getAttribute("height") > SMALL_PIXELS;
  if (isLarge && (await drawAhead(card, picture, box))) return;
  await picture.decode();
}

/** Draw it anew where the stage has another size now. */
export function refit(card, box) {
  const picture = card.querySelector("img.picture");
  const canvas = card.querySelector("canvas");
  if (canvas && picture && canvas.width !== sizeIn(box, picture).width) drawAhead(card, picture, box);
}

/** Give the memory back; `ready` draws it again. */
export function release(card) {
  card.querySelector("canvas")?.remove();
  card.querySelector("img.picture")?.classList.remove("covered");
}

/** The pixels of the screen that the picture takes in a box of the page. */
function sizeIn(box, picture) {
  const [wide, high] = ["width", "height"].map((side) => Number(picture.getAttribute(side)));
  const scale = Math.min(1, box.width / wide, box.height / high) * Math.min(window.devicePixelRatio || 1, 2);
  return { width: Math.max(1, Math.round(wide * scale)), height: Math.max(1, Math.round(high * scale)) };
}

async function drawAhead(card, picture, box) {
  const { width, height } = sizeIn(box, picture);
  const bitmap = await decode(picture.currentSrc || picture.src, width, height);
  if (!bitmap) return false;
  release(card);
  const canvas = document.createElement("canvas");
  canvas.className = "picture ahead";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", picture.alt);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("bitmaprenderer");
  if (!context) return false;
  context.transferFromImageBitmap(bitmap);
  picture.after(canvas);
  picture.classList.add("covered"); // not painted, or it would be decoded after all
  return true;
}

/** The picture at this size, or null where this browser cannot do it aside. */
function decode(address, width, height) {
  if (!window.Worker || !window.createImageBitmap) return Promise.resolve(null);
  worker ??= start();
  asked += 1;
  const id = asked;
  worker.postMessage({ id, address, width, height });
  return new Promise((resolve) => {
    awaited.set(id, resolve);
    setTimeout(() => answer(id, null), WORKING_MS);
  });
}

function start() {
  const made = new Worker(new URL("./decoder.js", import.meta.url));
  made.addEventListener("message", ({ data }) => answer(data.id, data.bitmap));
  made.addEventListener("error", () => [...awaited.keys()].forEach((id) => answer(id, null)));
  return made;
}

function answer(id, bitmap) {
  awaited.get(id)?.(bitmap);
  awaited.delete(id);
}
