// The space of codes, or of noises: a plane under the finger, from one image to another, a − b + c, one dimension at a time.
import { at, attempt, button, field, h, latest, short, slider } from "/static/lib.js";
import { pick } from "/static/play/draw.js";
import { inspect } from "/static/play/inspect.js";
import { base64, choose, meter, paint, parts, picture, pixelsOf, shapeOf } from "/static/play/parts.js";
import { meant, picker } from "/static/play/picker.js";

const RANDOM = 7919; // the seed of directions drawn at random

export async function explore(place, stage, signal) {
  const { run, info } = stage,
    shape = shapeOf(run),
    noise = info.codes === "noise",
    values = info.dims;
  const [FEW, MANY] = info.steps; // of a chain, while one drags and when one rests
  const state = { slots: [null, null, null], active: 0, label: "", z: null, mode: "plane" };
  const view = picture(shape, null, "The image of this place"),
    rate = h("small.facts", { "aria-live": "off" }, ""),
    bar = meter("The space of codes");
  const closer = button(
    "Look closer",
    () =>
      state.pixels &&
      inspect(stage, {
        pixels: state.pixels,
        label: state.label === "" ? null : Number(state.label),
        z: state.z,
        words: "the image of a code",
      }),
    { class: "quiet" },
  );
  let settle = null,
    timer = null,
    times = [];
  signal.addEventListener("abort", () => {
    settle?.abort();
    clearTimeout(timer);
  });

  // frames
  const decode = (z, steps, more = {}) =>
    parts(
      at("/api/play/decode", { run: run.key, steps: noise ? steps : 0, label: state.label }),
      z.buffer.slice(z.byteOffset, z.byteOffset + z.byteLength),
      { signal, ...more },
    );
  const frame = latest(async (z) => {
    const found = await decode(z, FEW);
    if (settle && settle.z === z && settle.done) return;
    paint(view, (state.pixels = pixelsOf(found, 0).slice()), shape);
    const now = performance.now();
    times = [...times.filter((each) => now - each < 1500), now];
    if (times.length > 3)
      rate.textContent = `${Math.round((1000 * (times.length - 1)) / (now - times[0]))} frames/s${noise ? `, ${FEW === 1 ? "one step" : `${FEW} steps`} while it moves` : ""}`;
  });
  function show(z) {
    state.z = z;
    settle?.abort();
    settle = null;
    frame(z);
    clearTimeout(timer);
    if (noise) timer = setTimeout(() => attempt(() => full(z)), 300);
  }
  async function full(z) {
    const mine = (settle = new AbortController());
    mine.z = z;
    const found = await decode(z, MANY, { signal: mine.signal });
    mine.done = true;
    if (state.z !== z) return;
    paint(view, (state.pixels = pixelsOf(found, 0).slice()), shape);
    rate.textContent = `${MANY} steps in ${found.seconds.toFixed(1)} s`;
  }
  async function codesOf(images) {
    // each is asked for once, however often one comes back to it
    const wanted = images.filter((image) => image && !image.code);
    if (wanted.length) {
      if (info.codes === "code" && !info.encodes && wanted.some((image) => image.seed === undefined))
        bar.words = "without an encoder, codes are searched for";
      bar.start();
      let left = wanted.length;
      for (const image of wanted) {
        const over = (image.over = new AbortController());
        signal.addEventListener("abort", () => over.abort());
        image.code = parts(
          "/api/play/codes",
          { run: run.key, images: [meant(image, info, base64)] },
          { signal: over.signal, heard: bar.heard },
        ).then((found) => {
          image.over = null;
          return found.values;
        });
        image.code
          .catch(() => {
            image.code = image.over = null;
          })
          .finally(() => {
            if (--left === 0) bar.idle();
          });
      }
    }
    return Promise.all(images.map((image) => image?.code));
  }
  const mixed = (weights, codes, even) => {
    // Σ w z, over ‖w‖ where codes are draws of N(0, I), so that the mixture is one too
    const z = new Float32Array(values),
      size = even ? Math.hypot(...weights) || 1 : 1;
    weights.forEach((w, k) => {
      for (let i = 0; i < values; i++) z[i] += (w / size) * codes[k][i];
    });
    return z;
  };
  const even = () => info.prior;

  // the images that it is about
  const slots = ["A", "B", "C"].map((name, i) =>
    h(
      "button.sample.slot",
      {
        type: "button",
        "aria-pressed": String(i === 0),
        "aria-label": `Image ${name}: choose it, then an image below`,
        onclick: () => {
          state.active = i;
          press();
        },
      },
      picture(shape),
      h("span", {}, name),
    ),
  );
  const press = () => slots.forEach((slot, i) => slot.setAttribute("aria-pressed", String(i === state.active)));
  const put = (i, image) => {
    state.slots[i]?.over?.abort();
    state.slots[i] = image;
    paint(slots[i].firstChild, image.pixels, shape);
    slots[i].title = image.words;
  };
  const strip = picker(
    stage,
    signal,
    (image) => {
      put(state.active, { ...image });
      if (state.active === 0 && image.label !== null && classes) {
        classes.value = state.label = String(image.label);
      }
      const count = mode().slots;
      state.active = (state.active + 1) % Math.max(1, count);
      press();
      begin();
    },
    {
      only: noise && !info.encodes,
      ready: (images) => {
        images.slice(0, 3).forEach((image, i) => put(i, { ...image }));
        if (classes && images[0].label !== null) classes.value = state.label = String(images[0].label);
        begin();
      },
    },
  );
  const classes =
    run.classes.length && info.no_class
      ? pick([["", "no class"], ...run.classes.map((name, i) => [String(i), name])], (v) => {
          state.label = v;
          begin();
        })
      : null;

  // what one does with them
  let kind = info.prior ? "random" : "three";
  const controls = h("div.stack.space");
  const MODES = {
    plane: {
      words: "Plane",
      get slots() {
        return kind === "three" ? 3 : 1;
      },
      begin: plane,
    },
    between: { words: "Between two", slots: 2, begin: between },
    sum: { words: "A − B + C", slots: 3, begin: sum },
    ...(noise ? {} : { dims: { words: "One by one", slots: 1, begin: dims } }),
  };
  const mode = () => MODES[state.mode];
  let turn = 0;
  function begin() {
    slots.forEach((slot, i) => {
      slot.hidden = i >= mode().slots;
    });
    const mine = ++turn;
    if (state.slots[0]) attempt(() => mode().begin(() => mine === turn));
  }
  place.append(
    h(
      "div.row.ways",
      {},
      choose(
        "What to do with codes",
        Object.entries(MODES).map(([key, each]) => [key, each.words]),
        state.mode,
        (key) => {
          state.mode = key;
          state.active = 0;
          controls.replaceChildren();
          press();
          begin();
        },
      ),
      classes ? field("class", classes) : null,
    ),
    h(
      "div.explore",
      {},
      h(
        "section.stack.view",
        { "aria-label": "Image" },
        view,
        h("div.spread", {}, rate, closer),
        h("div.slots", {}, slots),
        bar,
      ),
      controls,
    ),
    strip,
  );

  // a plane
  let known = null;
  async function directions() {
    if (!known) {
      bar.start();
      try {
        const found = await parts(at("/api/play/directions", { run: run.key }), null, { signal, heard: bar.heard });
        const row = (i) => found.values.slice(i * values, (i + 1) * values);
        known = { axes: [row(0), row(1)], mean: row(2), spread: row(3), change: row(4) };
      } finally {
        bar.idle();
      }
    }
    return known;
  }
  async function plane(current) {
    const kinds = [
      info.prior
        ? ["random", "through A, at random", "A and two random directions; every point is a draw of the prior"]
        : null,
      noise ? null : ["principal", "what changes images most", "Through A, the two directions that change images most"],
      ["three", "through A, B and C", "Three corners are the images; the fourth is B + C − A"],
    ].filter(Boolean);
    const map = h("canvas.pixels", { "aria-hidden": "true" }),
      mark = h("span.mark-here"),
      said = h("small", {}, "asking for the codes …");
    const pad = h(
      "div.pad",
      {
        tabIndex: 0,
        role: "slider",
        "aria-label": "Place in the plane: arrow keys move it, with shift in small steps",
        "aria-valuemin": -100,
        "aria-valuemax": 100,
        "aria-valuenow": 0,
      },
      map,
      mark,
    );
    const here = { x: 0.5, y: 0.5 };
    controls.replaceChildren(
      choose("Which plane", kinds, kind, (to) => {
        kind = to;
        state.active = 0;
        press();
        begin();
      }),
      pad,
      h("div.row", {}, said),
    );
    let basis = null;
    if (kind === "three") basis = await codesOf(state.slots);
    else if (kind === "principal") {
      const { axes } = await directions();
      const [a] = await codesOf([state.slots[0]]);
      basis = [a, ...axes];
    } else {
      const [a] = await codesOf([state.slots[0]]);
      const drawn = await parts(
        "/api/play/codes",
        { run: run.key, images: [0, 1].map((index) => ({ seed: RANDOM, index })) },
        { signal },
      );
      basis = [a, drawn.values.slice(0, values), drawn.values.slice(values, 2 * values)];
    }
    if (!current()) return;
    const reach = kind === "random" ? 2 : 3;
    const code = (x, y) =>
      kind === "three"
        ? mixed([1 - x - y, x, y], basis, even())
        : mixed([1, (2 * x - 1) * reach, (1 - 2 * y) * reach], basis, kind === "random");
    if (kind === "three") Object.assign(here, { x: 1 / 3, y: 1 / 3 });
    const words = () =>
      kind === "three"
        ? `B ${here.x.toFixed(2)}, C ${here.y.toFixed(2)}`
        : `${((2 * here.x - 1) * reach).toFixed(2)}, ${((1 - 2 * here.y) * reach).toFixed(2)}`;
    const move = (x, y) => {
      here.x = Math.min(1, Math.max(0, x));
      here.y = Math.min(1, Math.max(0, y));
      mark.style.setProperty("left", `${100 * here.x}%`);
      mark.style.setProperty("top", `${100 * here.y}%`);
      pad.setAttribute("aria-valuetext", words());
      pad.setAttribute("aria-valuenow", String(Math.round(200 * here.x - 100)));
      said.textContent = `${kind === "three" ? "A is the upper left corner, B the upper right, C the lower left; here " : "in standard deviations: "}${words()}`;
      show(code(here.x, here.y));
    };
    const drag = (event) => {
      const box = pad.getBoundingClientRect();
      move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      pad.focus({ preventScroll: true });
      drag(event);
      event.preventDefault();
    });
    pad.addEventListener("pointermove", (event) => {
      if (pad.hasPointerCapture(event.pointerId)) drag(event);
    });
    pad.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      const step = event.shiftKey ? 0.005 : 0.03;
      move(here.x + way[0] * step, here.y + way[1] * step);
    });
    move(here.x, here.y);
    const side = noise ? Math.min(5, grid(16)) : Math.min(9, grid(40)),
      all = new Float32Array(side * side * values);
    for (let i = 0; i < side * side; i++)
      all.set(code(((i % side) + 0.5) / side, (Math.floor(i / side) + 0.5) / side), i * values);
    const found = await decode(all, FEW);
    if (!current()) return;
    const [height, width] = shape,
      one = picture(shape);
    map.width = side * width;
    map.height = side * height;
    for (let i = 0; i < side * side; i++) {
      paint(one, pixelsOf(found, i), shape);
      map.getContext("2d").drawImage(one, (i % side) * width, Math.floor(i / side) * height);
    }
  }
  const grid = (most) =>
    Math.floor(Math.sqrt(Math.min(2 ** 18 / (shape[0] * shape[1] * shape[2]), 400000 / values, most * most)));

  // from one to the other
  let arc = info.prior;
  async function between(current) {
    const [a, b] = await codesOf(state.slots.slice(0, 2));
    if (!current()) return;
    const way = (t) => (arc ? bent(a, b, t) : mixed([1 - t, t], [a, b], false));
    const count = 9,
      row = Array.from({ length: count }, (_, i) =>
        h(
          "button.sample",
          {
            type: "button",
            "aria-label": `${Math.round((100 * i) / (count - 1))} % of the way`,
            onclick: () => {
              range.input.value = i / (count - 1);
              range.input.dispatchEvent(new Event("input"));
            },
          },
          picture(shape),
        ),
      );
    const range = slider("from A to B", {
      min: 0,
      max: 1,
      step: 0.005,
      value: 0.5,
      text: (t) => `${Math.round(100 * t)} %`,
      oninput: (t) => show(way(t)),
    });
    controls.replaceChildren(
      choose(
        "Which way",
        [
          ["arc", "along an arc", "White 2016: draws of N(0, I) lie near a sphere"],
          ["line", "along a line"],
        ],
        arc ? "arc" : "line",
        (to) => {
          arc = to === "arc";
          begin();
        },
      ),
      range,
      h("div.row-of", {}, row),
    );
    show(way(0.5));
    const all = new Float32Array(count * values);
    for (let i = 0; i < count; i++) all.set(way(i / (count - 1)), i * values);
    for (const steps of noise ? [FEW, MANY] : [0]) {
      if (steps === MANY) bar.start();
      const found = await decode(all, steps, { heard: bar.heard });
      bar.idle();
      if (!current()) return;
      row.forEach((tile, i) => paint(tile.firstChild, pixelsOf(found, i), shape));
    }
  }
  function bent(a, b, t) {
    let dot = 0,
      aa = 0,
      bb = 0;
    for (let i = 0; i < values; i++) {
      dot += a[i] * b[i];
      aa += a[i] * a[i];
      bb += b[i] * b[i];
    }
    const theta = Math.acos(Math.min(1, Math.max(-1, dot / Math.sqrt(aa * bb || 1)))),
      sine = Math.sin(theta);
    return sine > 1e-4
      ? mixed([Math.sin((1 - t) * theta) / sine, Math.sin(t * theta) / sine], [a, b], false)
      : mixed([1 - t, t], [a, b], false);
  }

  // a − b + c
  const means = [null, null, null];
  async function sum(current) {
    const names = info.means
      ? (stage.classNames ??
        (stage.classNames = (await parts(at("/api/play/held", { run: run.key, count: 1 }), null, { signal })).classes))
      : [];
    const choices = names.length
      ? ["A", "−\u2009B", "+\u2009C"].map((sign, i) =>
          field(
            sign,
            pick(
              [["", "the image above"], ...names.map((name) => [name, `mean of ${name}`])],
              (v) => {
                means[i] = v || null;
                begin();
              },
              means[i] ?? "",
            ),
          ),
        )
      : [];
    const power = slider("how much of C − B", { min: 0, max: 2, step: 0.01, value: 1, oninput: () => again() });
    controls.replaceChildren(
      ...[
        h("p", {}, "What the code of A becomes when the code of B is taken from it and that of C added."),
        choices.length ? h("div.fields", {}, choices) : null,
        power,
        h(
          "p.soft",
          {},
          info.means
            ? "The mean codes of classes say more than the codes of single images."
            : "Single images say little: with an encoder, classes could be averaged.",
        ),
      ].filter(Boolean),
    );
    const images = await codesOf(state.slots);
    const asked = [...new Set(means.filter(Boolean))];
    let found = new Map();
    if (asked.length) {
      const drawn = await parts("/api/play/classes", { run: run.key, classes: asked }, { signal });
      found = new Map(asked.map((name, k) => [name, drawn.values.slice(k * values, (k + 1) * values)]));
    }
    if (!current()) return;
    const codes = images.map((z, i) => found.get(means[i]) ?? z);
    const again = () => {
      const s = power.input.valueAsNumber;
      show(mixed([1, -s, s], codes, even() && !asked.length));
    };
    again();
  }

  // one dimension at a time
  async function dims(current) {
    controls.replaceChildren(h("p.soft", {}, "Which dimensions change images most …"));
    const { spread, change, mean } = await directions(),
      [a] = await codesOf([state.slots[0]]);
    if (!current()) return;
    const z = a.slice(),
      order = [...change.keys()].sort((i, j) => change[j] - change[i]).slice(0, 12);
    const sliders = order.map((i) =>
      slider(`z${i}`, {
        min: mean[i] - 3 * spread[i],
        max: mean[i] + 3 * spread[i],
        step: spread[i] / 50,
        value: a[i],
        text: (v) => v.toFixed(2),
        oninput: (v) => {
          z[i] = v;
          show(z.slice());
        },
      }),
    );
    sliders.forEach((node, k) => node.append(h("small", {}, `± ${short(change[order[k]], 2)} grey levels`)));
    controls.replaceChildren(
      h(
        "p",
        {},
        `The ${order.length} of ${values} dimensions that change the image most, from A on; below each, how much pixels change when it moves by one standard deviation.`,
      ),
      h("div.fields.dims", {}, sliders),
      h(
        "div.row",
        {},
        button("Back to A", () => {
          z.set(a);
          sliders.forEach((node, k) => {
            node.input.value = a[order[k]];
            node.querySelector("output").textContent = a[order[k]].toFixed(2);
          });
          show(z.slice());
        }),
      ),
    );
    show(z.slice());
  }
}
