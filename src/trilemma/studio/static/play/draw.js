// Samples under one's fingers: every sampling option of the family, its seed and its conditions.
import { api, at, attempt, button, copyable, field, h, latest, say, short, slider } from "/static/lib.js";
import { inspect } from "/static/play/inspect.js";
import { ink, meter, paint, parts, picture, pixelsOf, reachOf, save, scatter, shapeOf } from "/static/play/parts.js";

const FAST = 300; // milliseconds of computing below which samples follow the finger

export async function draw(place, stage, signal) {
  const { run, info } = stage,
    shape = shapeOf(run);
  const values = { seed: 0, labels: "", text: "" },
    options = {};
  let fast = false,
    abort = null,
    reach = null,
    shown = null;

  const changed = (final) => {
    if (fast) quickly();
    else if (final) slowly();
  };
  const quickly = latest(() => fetch(true));
  const slowly = () => attempt(() => fetch(false));
  const live = (make) => {
    const node = make;
    node.input.addEventListener("change", () => changed(true));
    return node;
  };

  const seed = live(
    slider("seed", {
      min: 0,
      max: 200,
      value: 0,
      oninput: (v) => {
        values.seed = v;
        changed(false);
      },
    }),
  );
  const fields = [seed];
  if (run.classes.length && info.no_class)
    fields.push(
      field(
        "class",
        pick(
          [
            ["", "drawn at random"],
            ["all", "every class in turn"],
            ["none", "no class"],
            ...run.classes.map((name, i) => [labelOf(run, i), name]),
          ],
          (v) => {
            values.labels = v;
            changed(true);
          },
        ),
      ),
    );
  if (run.captions)
    fields.push(
      field(
        "caption",
        h("input", {
          type: "text",
          maxLength: 300,
          placeholder: "any",
          onchange: (e) => {
            values.text = e.target.value;
            changed(true);
          },
        }),
      ),
    );
  const made = info.options
    .map((each) => [each, control(each)])
    .filter(([each]) => each.name !== "guidance" || info.no_class || run.captions);
  const relevant = () => {
    for (const [each, node] of made)
      node.hidden =
        each.samplers.length > 0 &&
        !each.samplers.includes(options.sampler ?? info.options.find((one) => one.name === "sampler")?.default);
  };
  const main = made.filter(([each]) => !each.fold).map(([, node]) => node),
    folded = made.filter(([each]) => each.fold).map(([, node]) => node);
  relevant();

  function control(each) {
    const set = (value, final) => {
      if (value === "" || String(value) === String(each.default)) delete options[each.name];
      else options[each.name] = value;
      if (each.name === "sampler") {
        relevant();
        for (const [other, node] of made) if (node.hidden) delete options[other.name];
      }
      changed(final);
    };
    const words = each.name.replaceAll("_", " "),
      help = each.help;
    if (each.low !== undefined) {
      const node = live(
        slider(words, {
          min: each.low,
          max: each.high,
          step: each.step,
          value: each.default ?? Math.min(50, each.high),
          text: (v) => (each.default === null && options[each.name] === undefined ? "as usual" : short(v)),
          oninput: (v) => set(v, false),
        }),
      );
      node.title = help;
      return node;
    }
    if (each.kind === "choice")
      return field(
        words,
        pick(
          each.choices.map((choice) => [choice, choice]),
          (v) => set(v, true),
          String(each.default),
        ),
        help.length < 140 ? help : undefined,
      );
    if (each.kind === "switch")
      return field(
        words,
        h("input", { type: "checkbox", checked: Boolean(each.default), onchange: (e) => set(e.target.checked, true) }),
        help,
      );
    return field(
      words,
      h("input", {
        type: each.kind === "text" ? "text" : "number",
        step: "any",
        value: each.default ?? "",
        onchange: (e) => set(e.target.value, true),
      }),
      help,
    );
  }

  // what is shown
  const bar = meter("Samples"),
    said = h("p.soft.facts", { "aria-live": "polite" }),
    command = h("div");
  const points = run.vector ? picture([520, 520, 1]) : null;
  if (points) {
    points.classList.remove("pixels");
    points.setAttribute("role", "img");
    points.removeAttribute("aria-hidden");
    points.setAttribute("aria-label", "Samples as points");
  }
  const tiles = run.vector
    ? []
    : Array.from({ length: info.n }, (_, i) => {
        const canvas = picture(shape);
        return h(
          "button.sample",
          {
            type: "button",
            "aria-label": `Sample ${i}: look closer`,
            disabled: true,
            onclick: () => inspect(stage, one(i)),
          },
          canvas,
        );
      });
  const stop = button("Stop", () => abort?.abort(), { class: "quiet", hidden: true });
  place.append(
    h(
      "div.play",
      {},
      h(
        "section.card.stack.controls",
        { "aria-label": "How to draw" },
        fields,
        main,
        folded.length ? h("details", {}, h("summary.soft", {}, "more options"), h("div.stack", {}, folded)) : null,
        button("Another seed", () => {
          seed.input.value = Math.floor(Math.random() * 201);
          seed.input.dispatchEvent(new Event("input"));
          changed(true);
        }),
      ),
      h(
        "section.stack",
        { "aria-label": "Samples" },
        run.vector ? h("div.points.card", {}, points) : h("div.samples", {}, tiles),
        h("div.spread", {}, said, bar, stop),
        h(
          "div.row",
          {},
          button("Save as PNG", () => attempt(png)),
          button("Save as npz", () => attempt(npz)),
          run.vector ? null : h("small", {}, "click a sample to look closer"),
        ),
        command,
      ),
    ),
  );
  signal.addEventListener("abort", () => abort?.abort());
  await attempt(() => fetch(false));

  function one(i) {
    return {
      pixels: pixelsOf(shown, i).slice(),
      seed: shown.seed,
      index: i,
      plain: shown.plain,
      label: shown.labels?.[i] ?? null,
      words: `sample ${i} of seed ${shown.seed}`,
    };
  }
  async function fetch(quick) {
    abort?.abort();
    const mine = (abort = new AbortController()),
      asked = values.seed,
      began = performance.now();
    if (!quick) {
      bar.start();
      stop.hidden = false;
    }
    try {
      const found = await parts(
        `/api/play/draw${quick ? "?quick=1" : ""}`,
        { run: run.key, n: info.n, ...values, options },
        { signal: mine.signal, heard: quick ? null : bar.heard },
      );
      const took = performance.now() - began;
      fast = 1000 * found.seconds < FAST; // without the opening of the model
      shown = stage.samples = { ...found, seed: asked, plain: Object.keys(options).every((name) => name === "steps") };
      if (run.vector) {
        reach = reachOf(found.values, reach);
        scatter(points, found.values, reach, ink(points));
      } else
        tiles.forEach((tile, i) => {
          paint(tile.firstChild, pixelsOf(found, i), shape);
          tile.disabled = false;
          if (found.labels) tile.title = run.classes[found.labels[i]] ?? "no class";
        });
      said.textContent = `${info.n} ${run.vector ? "points" : "images"} in ${took < 1000 ? `${Math.round(took)} ms` : `${(took / 1000).toFixed(1)} s`}${fast ? ": they follow the sliders" : ": drawn when you let go"}`;
      if (command.textContent !== `${found.command}Copy`) command.replaceChildren(copyable(found.command));
    } finally {
      if (abort === mine) {
        bar.idle();
        stop.hidden = true;
      }
    }
  }
  async function png() {
    if (!shown) return;
    if (run.vector) {
      points.toBlob((blob) => save(blob, "samples.png"));
      return;
    }
    const [height, width] = shape,
      columns = Math.ceil(Math.sqrt(info.n)),
      rows = Math.ceil(info.n / columns),
      sheet = picture([rows * (height + 2) + 2, columns * (width + 2) + 2, 1]),
      pen = sheet.getContext("2d");
    pen.fillStyle = "#808080";
    pen.fillRect(0, 0, sheet.width, sheet.height);
    tiles.forEach((tile, i) =>
      pen.drawImage(tile.firstChild, 2 + (i % columns) * (width + 2), 2 + Math.floor(i / columns) * (height + 2)),
    );
    sheet.toBlob((blob) => save(blob, `${run.family}-${shown.seed}.png`));
  }
  async function npz() {
    if (!shown) return;
    const file = await api(
      at("/api/play/npz", { run: run.key, labels: (shown.labels ?? []).join(",") }),
      shown.bytes.slice().buffer,
    );
    save(await file.blob(), `${run.family}-${shown.seed}.npz`);
    say("saved");
  }
}

/** A class as --labels names it: by its number, unless classes are called by numbers. */
export const labelOf = (run, i) =>
  run.classes.some((name) => /^-*\d+$/.test(name)) ? `"${run.classes[i]}"` : String(i);

export function pick(options, onchange, value = "") {
  return h(
    "select",
    { onchange: (e) => onchange(e.target.value) },
    options.map(([key, words]) => h("option", { value: key, selected: key === value }, words)),
  );
}
