// Images to choose from: samples of the run, or held-out ones of its data.
import { api, at, attempt, button, h } from "/static/lib.js";
import { choose, meter, paint, parts, picture, pixelsOf, shapeOf } from "/static/play/parts.js";

export const SHOWN = 12;

/** Samples of a run: those that were drawn last, or new ones. */
export async function samplesOf(stage, { signal, heard } = {}) {
  stage.samples ??= {
    ...(await parts(
      "/api/play/draw",
      { run: stage.run.key, n: Math.min(SHOWN, stage.info.n), seed: 0 },
      { signal, heard },
    )),
    seed: 0,
    plain: true,
  };
  return stage.samples;
}
export const sampleAt = (stage, i) => ({
  pixels: pixelsOf(stage.samples, i).slice(),
  seed: stage.samples.seed,
  index: i,
  plain: stage.samples.plain,
  label: stage.samples.labels?.[i] ?? null,
  words: `sample ${i} of seed ${stage.samples.seed}`,
});

/** A strip of images; `onpick(image)` is told of the chosen one. */
export function picker(stage, signal, onpick, { held = false, only = false, ready } = {}) {
  const { run } = stage,
    shape = shapeOf(run),
    bar = meter("Images");
  const tiles = Array.from({ length: SHOWN }, () =>
    h("button.sample", { type: "button", disabled: true }, picture(shape)),
  );
  let start = 0,
    kind = held ? "held" : "samples";
  const more = button(
    "Others",
    () => {
      start += SHOWN;
      fill();
    },
    { class: "quiet" },
  );
  const node = h(
    "section.picker",
    { "aria-label": "Images to choose from" },
    h(
      "div.row",
      {},
      choose(
        "Which images",
        [["samples", "samples of this run"], only ? null : ["held", "held-out images"]].filter(Boolean),
        kind,
        (to) => {
          kind = to;
          start = 0;
          fill();
        },
      ),
      more,
      bar,
    ),
    h("div.thumbs", {}, tiles),
  );
  async function fill() {
    await attempt(async () => {
      let images;
      if (kind === "held") {
        const found = await parts(at("/api/play/held", { run: run.key, start, count: SHOWN }), null, { signal });
        stage.classNames = found.classes;
        images = found.held.map((row, i) => ({
          pixels: pixelsOf(found, i).slice(),
          held: row,
          label: null,
          truly: found.labels[i] ?? "",
          words: `${found.what} image ${row}${found.labels[i] ? `, ${found.labels[i]}` : ""}`,
        }));
      } else {
        bar.start();
        const found = await samplesOf(stage, { signal, heard: bar.heard });
        const count = found.shape[0];
        images = Array.from({ length: Math.min(SHOWN, count) }, (_, i) => sampleAt(stage, (start + i) % count));
      }
      bar.idle();
      tiles.forEach((tile, i) => {
        tile.hidden = i >= images.length;
        if (tile.hidden) return;
        paint(tile.firstChild, images[i].pixels, shape);
        tile.disabled = false;
        tile.title = images[i].words;
        tile.setAttribute("aria-label", `Choose ${images[i].words}`);
        tile.onclick = () => onpick(images[i]);
      });
      ready?.(images);
      ready = null;
    });
  }
  fill();
  return node;
}

/** How the server is told which image is meant. */
export function meant(image, info, base64) {
  const label = image.label ?? undefined,
    own = image.seed !== undefined && (info.codes === "code" ? info.prior : image.plain || !info.encodes);
  if (own) return { seed: image.seed, index: image.index, label };
  return image.held !== undefined ? { held: image.held, label } : { pixels: base64(image.pixels), label };
}
export { api };
