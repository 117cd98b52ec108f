// The points of the map as the server packs them (annotator/views/map.py `packed`), and which of them is nearest.

const CELLS = 64;

/** Arrays of n: ids, x and y (0..1, y upwards), label and said (places in classes from 1), state, sure (0..1). */
export async function fetchPoints(address) {
  const answer = await fetch(address, { headers: { "X-Requested-With": "fetch" } });
  if (!answer.ok) throw new Error(`${answer.status}`);
  return unpack(await answer.arrayBuffer());
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const n = head.n;
  let at = 4 + length;
  const take = (kind) => {
    const bytes = n * kind.BYTES_PER_ELEMENT;
    // A copy: an array of wider numbers may not begin at every byte.
    const values = new kind(buffer.slice(at, at + bytes));
    at += bytes;
    return values;
  };
  const ids = take(Uint32Array);
  const [across, up] = [take(Uint16Array), take(Uint16Array)];
  const kind = head.wide ? Uint16Array : Uint8Array;
  const [label, said, packed] = [take(kind), take(kind), take(Uint8Array)];
  const [x, y, state, sure] = [new Float32Array(n), new Float32Array(n), new Uint8Array(n), new Float32Array(n)];
  for (let i = 0, id = 0; i < n; i += 1) {
    id += ids[i];
    ids[i] = id;
    x[i] = across[i] / 65535;
    y[i] = up[i] / 65535;
    state[i] = packed[i] & 15;
    sure[i] = (packed[i] >> 4) / 15;
  }
  return { ...head, ids, x, y, label, said, state, sure };
}

/** Finds the point nearest to a place within a distance; -1 without any. Points lie in the cells of a grid. */
export function finder({ n, x, y }) {
  const cell = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor(value * CELLS)));
  const starts = new Uint32Array(CELLS * CELLS + 1);
  for (let i = 0; i < n; i += 1) starts[cell(y[i]) * CELLS + cell(x[i]) + 1] += 1;
  for (let c = 0; c < CELLS * CELLS; c += 1) starts[c + 1] += starts[c];
  const [members, filled] = [new Uint32Array(n), starts.slice()];
  for (let i = 0; i < n; i += 1) members[filled[cell(y[i]) * CELLS + cell(x[i])]++] = i;
  return (px, py, within, allowed = () => true) => {
    let [best, found] = [within * within, -1];
    for (let row = cell(py - within); row <= cell(py + within); row += 1) {
      for (let column = cell(px - within); column <= cell(px + within); column += 1) {
        for (let m = starts[row * CELLS + column]; m < starts[row * CELLS + column + 1]; m += 1) {
          const i = members[m];
          const far = (x[i] - px) ** 2 + (y[i] - py) ** 2;
          if (far < best && allowed(i)) [best, found] = [far, i];
        }
      }
    }
    return found;
  };
}

/** Which points lie inside a polygon [[x, y], ...], by the even-odd rule, as the server counts them. */
export function inside({ n, x, y }, corners) {
  const found = new Uint8Array(n);
  const [left, right] = [Math.min(...corners.map((c) => c[0])), Math.max(...corners.map((c) => c[0]))];
  const [low, high] = [Math.min(...corners.map((c) => c[1])), Math.max(...corners.map((c) => c[1]))];
  for (let i = 0; i < n; i += 1) {
    if (x[i] < left || x[i] > right || y[i] < low || y[i] > high) continue;
    for (let c = 0, before = corners.length - 1; c < corners.length; before = c, c += 1) {
      const [x0, y0] = corners[before];
      const [x1, y1] = corners[c];
      if (y0 > y[i] !== y1 > y[i] && x[i] < ((x1 - x0) * (y[i] - y0)) / (y1 - y0) + x0) found[i] ^= 1;
    }
  }
  return found;
}

/** The same outline with at most so many corners: those go first whose going changes least. */
export function simplified(corners, most) {
  const kept = corners.slice();
  const size = (a, b, c) => Math.abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]));
  while (kept.length > most) {
    let [least, which] = [Infinity, 0];
    for (let i = 0; i < kept.length; i += 1) {
      const lost = size(kept.at(i - 1), kept[i], kept[(i + 1) % kept.length]);
      if (lost < least) [least, which] = [lost, i];
    }
    kept.splice(which, 1);
  }
  return kept;
}
