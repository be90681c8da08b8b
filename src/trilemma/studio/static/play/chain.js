// The reverse chain: fetched once, then a slider scrubs from noise to image.
import { attempt, button, copyable, field, h, slider } from "/static/lib.js";
import { labelOf, pick } from "/static/play/draw.js";
import { inspect } from "/static/play/inspect.js";
import { ink, meter, paint, parts, picture, reachOf, scatter, shapeOf } from "/static/play/parts.js";

export async function chain(place, stage, signal) {
  const { run, info } = stage,
    shape = shapeOf(run),
    count = run.vector ? 600 : Math.max(1, Math.min(6, Math.floor(2 ** 17 / (shape[0] * shape[1] * shape[2]))));
  const wanted = { seed: 0, labels: "", options: {} },
    bar = meter("The chain"),
    command = h("div"),
    said = h("output", {}, "");
  let found = null,
    reach = null,
    timer = null,
    abort = null;
  signal.addEventListener("abort", () => {
    abort?.abort();
    clearInterval(timer);
  });
  const range = h("input", {
    type: "range",
    min: 0,
    max: 1,
    value: 0,
    "aria-label": "From noise to image",
    oninput: () => draw(),
  });
  const play = button("Play", () => (timer ? stop() : start()), { "aria-pressed": "false" });
  const rows = [
    ["x_t", "what the chain has"],
    ["estimate of x₀", "what the model would say the image is, now"],
  ];
  const cells = rows.map(([name]) =>
    Array.from({ length: run.vector ? 1 : count }, (_, i) =>
      run.vector
        ? h("canvas", { role: "img", "aria-label": name })
        : name === "x_t"
          ? picture(shape)
          : h(
              "button.sample",
              {
                type: "button",
                "aria-label": `Sample ${i}: look closer`,
                onclick: () =>
                  found &&
                  inspect(stage, {
                    pixels: at(found.times.length - 1, 0, i).slice(),
                    seed: wanted.seed,
                    index: i,
                    plain: !Object.keys(wanted.options).some((key) => key !== "steps"),
                    label: null,
                    words: `sample ${i} of seed ${wanted.seed}`,
                  }),
              },
              picture(shape),
            ),
    ),
  );
  const again = () => attempt(fetch);
  const samplers = info.options.find((each) => each.name === "sampler");
  const controls = [
    slider("seed", {
      min: 0,
      max: 200,
      value: 0,
      oninput: (v) => {
        wanted.seed = v;
      },
    }),
    slider("steps", {
      min: 2,
      max: 100,
      value: 50,
      oninput: (v) => {
        wanted.options.steps = v;
      },
    }),
  ];
  for (const node of controls) node.input.addEventListener("change", again);
  if (samplers)
    controls.push(
      field(
        "sampler",
        pick(
          samplers.choices.map((each) => [each, each]),
          (v) => {
            wanted.options.sampler = v;
            again();
          },
          samplers.default,
        ),
      ),
    );
  if (run.classes.length && info.no_class)
    controls.push(
      field(
        "class",
        pick([["", "drawn at random"], ...run.classes.map((name, i) => [labelOf(run, i), name])], (v) => {
          wanted.labels = v;
          again();
        }),
      ),
    );
  wanted.options.steps = 50;
  place.append(
    h(
      "div.play",
      {},
      h("section.card.stack.controls", { "aria-label": "Which chain" }, controls),
      h(
        "section.stack",
        { "aria-label": "Chain" },
        h(
          "div.chain",
          { class: run.vector ? "of-points" : "" },
          rows.map(([name, words], k) =>
            h(
              "div",
              {},
              h("h3", {}, name, h("small", {}, ` ${words}`)),
              run.vector ? h("div.points.card", {}, cells[k]) : h("div.row-of.large", {}, cells[k]),
            ),
          ),
        ),
        h("div.time.scrub", {}, play, range, said),
        bar,
        command,
      ),
    ),
  );
  await again();

  function at(step, which, i) {
    const size = shape[0] * shape[1] * shape[2],
      n = found.n;
    return found.bytes.subarray(((step * 2 + which) * n + i) * size, ((step * 2 + which) * n + i + 1) * size);
  }
  function draw() {
    if (!found) return;
    const step = range.valueAsNumber,
      t = found.times[step];
    said.textContent = t ? `t = ${t}` : "image";
    range.setAttribute("aria-valuetext", said.textContent);
    for (const which of [0, 1])
      cells[which].forEach((cell, i) => {
        if (run.vector) {
          const size = 2 * found.n;
          scatter(
            cell,
            found.values.subarray((step * 2 + which) * size, (step * 2 + which + 1) * size),
            reach,
            ink(cell),
          );
        } else paint(cell instanceof HTMLCanvasElement ? cell : cell.firstChild, at(step, which, i), shape);
      });
  }
  function start() {
    if (!found) return;
    if (range.valueAsNumber >= found.times.length - 1) range.value = 0;
    play.textContent = "Pause";
    timer = setInterval(() => {
      range.value = range.valueAsNumber + 1;
      draw();
      if (range.valueAsNumber >= found.times.length - 1) stop();
    }, 70);
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }
  async function fetch() {
    abort?.abort();
    const mine = (abort = new AbortController());
    bar.start();
    try {
      found = await parts(
        "/api/play/chain",
        { run: run.key, n: count, ...wanted },
        { signal: mine.signal, heard: bar.heard },
      );
      if (run.vector) {
        const end = found.values.subarray(-2 * found.n);
        reach = reachOf(end, reachOf(found.values.subarray(0, 2 * found.n)));
      }
      const was = range.valueAsNumber / range.max;
      range.max = found.times.length - 1;
      range.value = Math.round(was * range.max);
      command.replaceChildren(copyable(found.command));
      draw();
      if (was === 0 && !matchMedia("(prefers-reduced-motion: reduce)").matches) start();
    } finally {
      if (abort === mine) bar.idle();
    }
  }
}
