// Answers that arrive in parts (studio/streams.py), and pictures painted from plain bytes.
import { api, h } from "/static/lib.js";

/** Ask, and read the parts as they come: `heard(share)` of progress (null while waiting for a turn); the last part that is no progress. */
export async function parts(path, body, { signal, heard } = {}) {
  const answer = await api(path, body, { signal });
  const reader = answer.body.getReader();
  let kept = new Uint8Array(0),
    last = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (kept.length) {
      const both = new Uint8Array(kept.length + value.length);
      both.set(kept);
      both.set(value, kept.length);
      kept = both;
    } else kept = value;
    while (kept.length >= 8) {
      const view = new DataView(kept.buffer, kept.byteOffset);
      const head = view.getUint32(0, true),
        size = view.getUint32(4, true);
      if (kept.length < 8 + head + size) break;
      const said = JSON.parse(new TextDecoder().decode(kept.subarray(8, 8 + head)));
      const bytes = kept.slice(8 + head, 8 + head + size);
      kept = kept.subarray(8 + head + size);
      if (said.error) throw new Error(said.error);
      if (said.waiting) heard?.(null);
      else if (said.done !== undefined) heard?.(said.done);
      else last = { ...said, bytes };
    }
  }
  if (!last) throw new Error("the answer was cut off: is the studio still running?");
  if (last.floats) last.values = new Float32Array(last.bytes.buffer, last.bytes.byteOffset, last.bytes.length / 4);
  return last;
}

/** The bytes of picture i of pictures [N, H, W, C]. */
export function pixelsOf(found, i) {
  const size = found.shape[1] * found.shape[2] * found.shape[3];
  return found.bytes.subarray(i * size, (i + 1) * size);
}

/** Paint pixels [H, W, C] on a canvas of their size. */
export function paint(canvas, pixels, [height, width, channels]) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const pen = canvas.getContext("2d"),
    image = pen.createImageData(width, height),
    out = image.data;
  for (let i = 0, j = 0; i < width * height; i++, j += channels) {
    out[4 * i] = pixels[j];
    out[4 * i + 1] = pixels[channels === 1 ? j : j + 1];
    out[4 * i + 2] = pixels[channels === 1 ? j : j + 2];
    out[4 * i + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
}

/** A canvas of an image's size, painted if there are pixels. */
export function picture(shape, pixels, label) {
  const canvas = h("canvas.pixels", label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" });
  canvas.width = shape[1];
  canvas.height = shape[0];
  if (pixels) paint(canvas, pixels, shape);
  return canvas;
}

/** [H, W, C] of a run's images. */
export const shapeOf = (run) => [run.shape[1], run.shape[2], run.shape[0]];

export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

/** A bar that keeps its place when it is not there. */
export function meter(label = "Progress") {
  const bar = h("progress", { max: 1, value: 0, "aria-label": label }),
    words = h("small", { "aria-live": "polite" });
  const node = h("div.meter", {}, bar, words);
  node.idle = () => {
    bar.style.setProperty("visibility", "hidden");
    words.textContent = node.words = "";
  };
  node.heard = (share) => {
    bar.style.setProperty("visibility", "visible");
    if (share === null) {
      bar.removeAttribute("value");
      words.textContent = "waiting";
    } else {
      bar.value = share;
      node.began ??= performance.now();
      const left = share > 0.03 ? ((performance.now() - node.began) / 1000) * (1 / share - 1) : null;
      words.textContent = left === null || left < 1.5 ? node.words : `${Math.ceil(left)} s left`;
    }
  };
  node.start = () => {
    node.began = null;
    node.heard(0);
    node.began = performance.now();
  };
  node.words = "";
  node.idle();
  return node;
}

/** A choice of a few words, one of which holds. */
export function choose(label, options, value, onchange) {
  const node = h("div.row", { role: "group", "aria-label": label });
  node.append(
    ...options.map(([key, words, title]) =>
      h(
        "button.quiet",
        {
          type: "button",
          title,
          "aria-pressed": String(key === value),
          onclick: (event) => {
            for (const each of node.children) each.setAttribute("aria-pressed", String(each === event.currentTarget));
            onchange(key);
          },
        },
        words,
      ),
    ),
  );
  return node;
}

/** Points [N, 2] as a scatter, the frame fixed by `reach`. */
export function scatter(canvas, values, reach, colour) {
  const size = 520,
    pen = canvas.getContext("2d");
  canvas.width = size;
  canvas.height = size;
  const [low, high] = reach,
    at = (v, axis) => ((v - low[axis]) / (high[axis] - low[axis] || 1)) * (size - 24) + 12;
  pen.clearRect(0, 0, size, size);
  pen.fillStyle = colour;
  pen.globalAlpha = 0.55;
  for (let i = 0; i + 1 < values.length; i += 2) {
    pen.beginPath();
    pen.arc(at(values[i], 0), size - at(values[i + 1], 1), 2.6, 0, 7);
    pen.fill();
  }
}
export function reachOf(values, before) {
  const low = [Infinity, Infinity],
    high = [-Infinity, -Infinity];
  for (let i = 0; i < values.length; i++) {
    const v = values[i];
    if (!Number.isFinite(v)) continue;
    low[i % 2] = Math.min(low[i % 2], v);
    high[i % 2] = Math.max(high[i % 2], v);
  }
  const now = [low, high].map((each) => each.map((v) => (Number.isFinite(v) ? v : 0)));
  return before
    ? [before[0].map((v, k) => Math.min(v, now[0][k])), before[1].map((v, k) => Math.max(v, now[1][k]))]
    : now;
}
export const ink = (node, name = "--hue") =>
  getComputedStyle(node).getPropertyValue(name).trim() || getComputedStyle(node).getPropertyValue("--accent").trim();

/** Hand a file to the browser. */
export function save(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
