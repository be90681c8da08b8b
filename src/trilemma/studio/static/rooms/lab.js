// The lab: points in the plane, learnt by every family side by side while one looks on and turns their switches.
import {
  about,
  api,
  at,
  attempt,
  badge,
  button,
  curve,
  field,
  h,
  hue,
  named,
  poll,
  say,
  short,
  slider,
} from "/static/lib.js";

const SPEEDS = [
  [0, "as fast as it goes"],
  [20, "20 steps a second"],
  [5, "5 steps a second"],
  [1, "1 step a second"],
];
const still = matchMedia("(prefers-reduced-motion: reduce)"),
  dark = matchMedia("(prefers-color-scheme: dark)");

export async function show(place) {
  const known = await api("/api/lab");
  const state = {
    source: "ring",
    families: known.families.slice(),
    seed: 0,
    own: null,
    lab: null,
    cards: new Map(),
    stamp: 0,
    data: null,
    stop: null,
    view: { playing: true, speed: 0, heat: true, lines: true, averaged: false, time: 0 },
  };

  const sets = h(
    "div.chips",
    { role: "radiogroup", "aria-label": "The points to learn" },
    Object.entries(known.sets).map(([name, words]) =>
      h(
        "label.chip",
        { title: words },
        h("input", {
          type: "radio",
          name: "lab-set",
          value: name,
          checked: name === state.source,
          onchange: () => choose(name),
        }),
        name === "own" ? "draw or paste your own" : words,
      ),
    ),
  );
  const families = h(
    "div.chips",
    { role: "group", "aria-label": "Who learns them" },
    known.families.map((name) =>
      h(
        "label.chip",
        { title: about.byName[name].title },
        h("input", { type: "checkbox", value: name, checked: true, onchange: pick }),
        badge(name),
        short_title(name),
      ),
    ),
  );
  const own = pen(known, (points) => {
    state.own = points;
    start();
  });
  own.hidden = true;
  const play = button("Pause", () => steer({ playing: !state.view.playing }), { class: "primary lab-play" });
  const step = button("Step", () => steer({ playing: false, step: 1 }), {
    title: "Pause, and let every family learn one step",
  });
  const steps = button("10 steps", () => steer({ playing: false, step: 10 }));
  const reset = button(
    "Reset",
    () => {
      clearCurves();
      steer({ reset: true });
    },
    { title: "Begin again with the same fresh weights" },
  );
  const reseed = button(
    "Other weights",
    () => {
      clearCurves();
      steer({ reset: true, seed: ++state.seed });
    },
    { title: "Begin again with other fresh weights, and other noise" },
  );
  const speed = h(
    "select",
    { "aria-label": "Speed", onchange: () => steer({ speed: Number(speed.value) }) },
    SPEEDS.map(([value, words]) => h("option", { value }, words)),
  );
  const ticks = [
    ["heat", "map"],
    ["lines", "grids and paths"],
    ["averaged", "averaged weights"],
  ].map(([name, words]) =>
    h(
      "label.chip",
      {
        title: {
          heat: "The density, where there is one; of a GAN what its discriminator believes",
          lines: "The latent plane bent over the data, or the paths from noise to samples",
          averaged: "Draw by the moving average of the weights, as a finished run does",
        }[name],
      },
      h("input", {
        type: "checkbox",
        checked: state.view[name],
        onchange: (event) => steer({ [name]: event.target.checked }),
      }),
      words,
    ),
  );
  const time = slider("Time t", {
    min: 0,
    max: 1,
    step: 0.02,
    value: 0,
    text: (v) => (v === 0 ? "0: samples" : v === 1 ? "1: noise" : v.toFixed(2)),
    oninput: (v) => steer({ time: v }),
  });
  time.classList.add("lab-time");
  time.title =
    "Where the dots of diffusion and flow are shown on their way from noise to samples, and the field that carries them there";
  const keep = button(
    "Train these as runs",
    async () => {
      const made = state.lab && (await attempt(() => api(`/api/lab/${state.lab.key}/keep`, { budget: "1m" })));
      if (made) location.hash = `#/watch/${encodeURIComponent(made.group)}`;
    },
    {
      class: "quiet",
      title:
        "Keep the points as a data set, and train every family on it for a minute, at full size, into a run folder",
    },
  );
  const told = h("p.soft", { role: "status", "aria-live": "polite" });
  const read = button(
    "Read out",
    () => {
      told.textContent = [...state.cards.values()].map((card) => card.words()).join(" ");
    },
    { class: "quiet", title: "Say in words what is seen" },
  );
  const columns = h("div.lab-columns");
  const ended = h("div.note", { hidden: true });
  place.append(
    h("h1", {}, "The Lab: watch them learn a plane of points"),
    h(
      "p.lead",
      {},
      "Grey points are the data, coloured dots are samples, always from the same noise, so that you see how each one moves.",
    ),
    h("div.lab-choice", {}, sets, own, families),
    h(
      "div.lab-bar",
      { role: "toolbar", "aria-label": "How they learn" },
      h("div.row", {}, play, step, steps, reset, reseed, speed),
      h("div.row", {}, ticks, time, keep, read),
    ),
    ended,
    columns,
    told,
    h(
      "p.soft",
      {},
      "Small networks of 64 units a layer, each family in turn for an equal time. Good: within three standard deviations of a mode. Near and covered: precision (Kynkäänniemi et al. 2019) and coverage (Naeem et al. 2020) against as many points of the data.",
    ),
  );

  function choose(name) {
    state.source = name;
    own.hidden = name !== "own";
    if (name !== "own") start();
    else own.focus_();
  }
  function pick() {
    state.families = [...families.querySelectorAll("input:checked")].map((input) => input.value);
    if (!state.families.length) {
      say("choose a family", true);
      return;
    }
    if (state.source !== "own" || state.own) start();
  }
  function clearCurves() {
    for (const card of state.cards.values()) card.clear();
  }
  function showPlaying() {
    play.textContent = state.view.playing ? "Pause" : "Play";
  }
  async function steer(change) {
    const { step: _, reset: __, seed: ___, ...kept } = change;
    Object.assign(state.view, kept);
    showPlaying();
    if (state.lab) await attempt(() => api(`/api/lab/${state.lab.key}`, change));
  }
  async function close() {
    const lab = state.lab;
    state.lab = null;
    state.stop?.();
    if (lab) await fetch(`/api/lab/${lab.key}`, { method: "DELETE", keepalive: true }).catch(() => {});
  }
  async function start() {
    const turn = (start.turn = (start.turn || 0) + 1);
    await close();
    if (turn !== start.turn) return;
    ended.hidden = true;
    const order = {
      source: state.source,
      families: state.families,
      seed: state.seed,
      points: state.source === "own" ? state.own : null,
    };
    let lab;
    try {
      lab = await api("/api/lab", order);
    } catch (error) {
      ended.replaceChildren(h("span", {}, `${error.message} `), button("Start again", start, { class: "quiet" }));
      ended.hidden = false;
      return;
    }
    if (turn !== start.turn) {
      fetch(`/api/lab/${lab.key}`, { method: "DELETE", keepalive: true });
      return;
    }
    Object.assign(state, { lab, stamp: 0, data: null });
    const old = state.cards;
    state.cards = new Map(
      lab.families.map((each) => [
        each.name,
        card(each, (name, value) => steer({ family: each.name, name, value }), old.get(each.name)?.open),
      ]),
    );
    columns.replaceChildren(...[...state.cards.values()].map((each) => each.node));
    balance(columns);
    time.hidden = !lab.families.some((each) => each.timed);
    await steer({ ...state.view });
    state.stop = poll(columns, 100, () => frame(lab));
  }
  async function frame(lab) {
    if (state.lab !== lab) return false;
    let answer;
    try {
      answer = await api(at(`/api/lab/${lab.key}/frame`, { since: state.stamp }));
    } catch (error) {
      if (error.status !== 404) throw error;
      state.lab = null;
      ended.replaceChildren(
        h("span", {}, "Nobody looked for a while, so this lab has ended. "),
        button("Start again", start, { class: "quiet" }),
      );
      ended.hidden = false;
      return false;
    }
    const buffer = await answer.arrayBuffer();
    if (state.lab !== lab) return false;
    const size = new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
    const values = new Float32Array(buffer, 4 + size);
    const array = ([from, shape]) => ({
      values: values.subarray(from, from + shape.reduce((a, b) => a * b, 1)),
      shape,
    });
    if (head.data) {
      state.data = array(head.data).values;
      for (const each of state.cards.values()) each.points(state.data);
    }
    for (const [name, facts] of Object.entries(head.families)) {
      const parts = Object.fromEntries(Object.entries(facts.parts).map(([part, where]) => [part, array(where)]));
      state.cards.get(name)?.hear(facts, parts, state.view);
    }
    state.stamp = head.stamp;
    return true;
  }
  new ResizeObserver(() => balance(columns)).observe(columns);
  const leave = () => {
    if (location.hash.startsWith("#/lab")) return;
    start.turn = Infinity;
    close();
    removeEventListener("hashchange", leave);
    removeEventListener("pagehide", close);
    dark.removeEventListener("change", recolour);
  };
  const recolour = () => {
    for (const each of state.cards.values()) each.recolour();
  };
  addEventListener("hashchange", leave);
  addEventListener("pagehide", close);
  dark.addEventListener("change", recolour);
  start();
}

/** A title that fits over a small canvas. */
function short_title(name) {
  const plain = about.byName[name].title.replace(/ \(.*\)$/, "");
  return plain.length <= 16 ? plain : name.length <= 3 ? name.toUpperCase() : name[0].toUpperCase() + name.slice(1);
}
/** As many columns as there is room for, in rows of about the same length. */
function balance(columns) {
  const count = columns.childElementCount || 1,
    fits = Math.max(1, Math.floor((columns.clientWidth + 14) / (206 + 14)));
  columns.style.setProperty("--columns", Math.ceil(count / Math.ceil(count / fits)));
}

/** One family: its canvas, what is said of it, its curve and its switches. */
function card(family, turn, open) {
  const canvas = h("canvas", { role: "img", "aria-label": `${family.name}: nothing drawn yet` });
  const score = h("b.lab-score"),
    facts = h("small.lab-facts"),
    kind = h("small.lab-kind", {}, "…"),
    chart = h("div.lab-chart");
  const lesson = h("p.lab-lesson", {}, family.lesson);
  const looks = Object.fromEntries(family.switches.map((each) => [each.name, each]));
  const choose = (each) => {
    const select = h(
      "select",
      {
        title: each.look,
        onfocus: () => {
          lesson.textContent = each.look;
        },
        onchange: () => {
          lesson.textContent = `${each.look}${each.fresh ? " (It has begun anew.)" : ""}`;
          if (each.fresh) clear();
          turn(each.name, typeof each.value === "number" ? Number(select.value) : select.value);
        },
      },
      each.choices.map((value) =>
        h("option", { value, selected: value === each.value }, typeof value === "number" ? short(value) : value),
      ),
    );
    const made = field(each.label, select);
    made.classList.toggle(
      "wide",
      each.choices.some((value) => typeof value === "string" && value.length > 8),
    );
    return made;
  };
  const switches = h(
    "details.lab-switches",
    { open: open?.() ?? innerWidth > 700 },
    h("summary", {}, "Switches"),
    h("div", {}, family.switches.map(choose)),
  );
  const node = h(
    "article.column.lab-card",
    { class: hue(family.name), "aria-label": about.byName[family.name].title },
    h("h3", { title: about.byName[family.name].title }, named(family.name, short_title(family.name))),
    h("div.lab-frame", {}, canvas),
    score,
    facts,
    kind,
    chart,
    lesson,
    switches,
  );
  const pen = canvas.getContext("2d"),
    under = document.createElement("canvas"),
    dot = document.createElement("canvas");
  let side = 0,
    ratio = 1,
    data = null,
    layer = null,
    heat = null,
    lines = null,
    from = null,
    to = null,
    began = 0,
    dirty = true,
    stale = true,
    colours = null,
    view = { heat: true, lines: true },
    last = {},
    charted = 0,
    said = 0,
    drawn = 0,
    summary = "nothing drawn yet";

  const colour = (name) => {
    const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    probe.fillStyle = getComputedStyle(node).getPropertyValue(name).trim() || "#888";
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const rgba = ([r, g, b], a) => `rgba(${r}, ${g}, ${b}, ${a})`;
  function recolour() {
    colours = null;
    layer = null;
    if (heat) heat.picture = null;
    dirty = stale = true;
  }
  function measure() {
    const width = Math.round(canvas.clientWidth),
      scale = Math.min(2, devicePixelRatio || 1);
    if (!width || (width === side && scale === ratio)) return;
    side = width;
    ratio = scale;
    canvas.width = canvas.height = Math.round(width * scale);
    layer = null;
    dirty = stale = true;
  }
  new ResizeObserver(measure).observe(canvas);

  function background() {
    if (layer || !data || !side) return;
    layer = document.createElement("canvas");
    layer.width = layer.height = canvas.width;
    const ink = layer.getContext("2d"),
      s = canvas.width,
      dot = Math.max(1.6, 1.5 * ratio);
    ink.fillStyle = rgba(colours.soft, 0.34);
    for (let i = 0; i < data.length; i += 2)
      ink.fillRect(data[i] * s - dot / 2, (1 - data[i + 1]) * s - dot / 2, dot, dot);
  }
  function picture() {
    if (!heat || heat.picture) return;
    const [rows, across] = heat.shape,
      made = document.createElement("canvas");
    made.width = across;
    made.height = rows;
    const pixels = new ImageData(across, rows),
      [r, g, b] = heat.plain ? colours.soft : colours.hue;
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < across; x++) {
        const v = heat.values[(rows - 1 - y) * across + x],
          i = 4 * (y * across + x);
        pixels.data[i] = r;
        pixels.data[i + 1] = g;
        pixels.data[i + 2] = b;
        pixels.data[i + 3] = 255 * (heat.plain ? 0.5 : 0.55) * v;
      }
    made.getContext("2d").putImageData(pixels, 0, 0);
    heat.picture = made;
  }
  function draw(now) {
    if (!node.isConnected) {
      if (node.dataset.seen) return;
      requestAnimationFrame(draw);
      return;
    }
    node.dataset.seen = "1";
    requestAnimationFrame(draw);
    measure();
    if (!side || now - drawn < 40) return;
    const share = still.matches ? 1 : Math.min(1, (now - began) / 160);
    if (!dirty && share >= 1) return;
    dirty = share < 1;
    drawn = now;
    colours ??= { hue: colour("--hue"), soft: colour("--soft"), card: colour("--card") };
    const s = canvas.width;
    if (stale) beneath(s);
    pen.clearRect(0, 0, s, s);
    pen.drawImage(under, 0, 0);
    if (!to) return;
    const middle = dot.width / 2;
    for (let i = 0; i < to.length; i += 2) {
      const x = (from[i] + share * (to[i] - from[i])) * s,
        y = (1 - from[i + 1] - share * (to[i + 1] - from[i + 1])) * s;
      if (x > -9 && y > -9 && x < s + 9 && y < s + 9) pen.drawImage(dot, x - middle, y - middle);
    }
  }
  /** All that stays while the dots move, and a dot: drawn once, so that a frame is quickly put together. */
  function beneath(s) {
    stale = false;
    background();
    picture();
    under.width = under.height = s;
    const ink = under.getContext("2d");
    ink.imageSmoothingQuality = "high";
    if (view.heat && heat) ink.drawImage(heat.picture, 0, 0, s, s);
    if (layer) ink.drawImage(layer, 0, 0);
    if (view.lines && lines) strokes(s, ink);
    const radius = Math.max(1.6, side / 170) * ratio;
    dot.width = dot.height = Math.ceil(2 * radius + 4);
    const round = dot.getContext("2d");
    round.arc(dot.width / 2, dot.width / 2, radius, 0, 7);
    round.fillStyle = rgba(colours.hue, 0.92);
    round.strokeStyle = rgba(colours.card, 0.8);
    round.lineWidth = 0.8 * ratio;
    round.fill();
    round.stroke();
  }
  function strokes(s, ink) {
    const [count, points] = lines.shape,
      arrows = family.timed && points === 2 && view.time > 0,
      all = new Path2D();
    for (let l = 0; l < count; l++) {
      let on = false;
      for (let p = 0; p < points; p++) {
        const i = 2 * (l * points + p),
          x = lines.values[i] * s,
          y = (1 - lines.values[i + 1]) * s;
        if (!Number.isFinite(x + y)) {
          on = false;
          continue;
        }
        if (on) all.lineTo(x, y);
        else all.moveTo(x, y);
        on = true;
      }
      if (arrows) {
        const i = 4 * l,
          x0 = lines.values[i] * s,
          y0 = (1 - lines.values[i + 1]) * s,
          x1 = lines.values[i + 2] * s,
          y1 = (1 - lines.values[i + 3]) * s;
        const length = Math.hypot(x1 - x0, y1 - y0),
          wing = Math.min(0.4 * length, 5 * ratio),
          angle = Math.atan2(y1 - y0, x1 - x0);
        if (length > 1)
          for (const turned of [2.6, -2.6]) {
            all.moveTo(x1, y1);
            all.lineTo(x1 + wing * Math.cos(angle + turned), y1 + wing * Math.sin(angle + turned));
          }
      }
    }
    ink.strokeStyle = rgba(colours.hue, arrows ? 0.75 : family.timed ? 0.22 : 0.4);
    ink.lineWidth = (arrows ? 1.2 : 1) * ratio;
    ink.stroke(all);
  }
  function clear() {
    from = to = lines = heat = null;
    dirty = stale = true;
    charted = 0;
    chart.replaceChildren();
  }

  function hear(now, parts, seen) {
    if (seen.heat !== view.heat || seen.lines !== view.lines) dirty = stale = true;
    view = { ...seen };
    const clock = performance.now();
    if (parts.dots) {
      const share = still.matches ? 1 : Math.min(1, (clock - began) / 160),
        fresh = parts.dots.values;
      from =
        to && to.length === fresh.length
          ? to.map((v, i) => {
              const x = from[i] + share * (v - from[i]);
              return Number.isFinite(x) ? x : fresh[i];
            })
          : fresh;
      to = fresh;
      began = clock;
      dirty = true;
    }
    if (parts.lines) {
      lines = parts.lines;
      dirty = stale = true;
    }
    if (parts.heat) {
      heat = { ...parts.heat, plain: now.kind === "discriminator" };
      dirty = stale = true;
    }
    if (now.step !== undefined) facts.textContent = `step ${now.step.toLocaleString("en")} · ${short(now.rate, 2)}/s`;
    const s = now.score;
    score.textContent = s
      ? "modes" in s
        ? `${s.modes}/${s.of} modes · ${Math.round(100 * s.good)} % good`
        : `${Math.round(100 * s.near)} % near · ${Math.round(100 * s.covered)} % covered`
      : "";
    kind.textContent = now.words ?? "the map is being drawn …";
    kind.title = now.words ?? "";
    if (now.error && last.error !== now.error) {
      lesson.textContent = now.error;
      lesson.classList.add("bad");
    }
    if (!now.error) lesson.classList.remove("bad");
    if (now.refused && now.refused !== last.refused) say(now.refused, true);
    last = now;
    if (parts.loss && clock - charted > 600) {
      charted = clock;
      const {
        values,
        shape: [rows, width],
      } = parts.loss;
      chart.replaceChildren(
        ...(now.losses ?? []).slice(0, width - 1).map((name, k) => {
          const points = Array.from({ length: rows }, (_, i) => [values[i * width], values[i * width + k + 1]]);
          return h(
            "figure",
            {},
            curve(points, `${family.name}: ${name}`, 150, 44),
            h("figcaption", { title: name }, h("b", {}, short(points.at(-1)?.[1], 2)), ` ${name}`),
          );
        }),
      );
    }
    if (clock - said > 2000 && now.step !== undefined) {
      said = clock;
      summary = `${short_title(family.name)} after ${now.step} steps: ${score.textContent || "not judged yet"}; ${now.words ?? "no map yet"}.`;
      canvas.setAttribute("aria-label", summary);
    }
  }
  requestAnimationFrame(draw);
  return {
    node,
    clear,
    hear,
    recolour,
    open: () => switches.open,
    words: () => summary,
    points: (given) => {
      data = given;
      layer = null;
      dirty = stale = true;
    },
  };
}

/** A square to draw points in, with a pointer or by keys, and a field to paste them into. */
function pen(known, use) {
  const size = 320,
    canvas = h("canvas.lab-pen", {
      width: size * 2,
      height: size * 2,
      tabIndex: 0,
      role: "application",
      "aria-label": "Draw points: drag with a pointer, or move with the arrow keys and press space",
    });
  const count = h("output", {}, "no points yet");
  const strokes = [];
  let at_ = [0.5, 0.5],
    pressed = false;
  const all = () => strokes.flat();
  const random = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  function spray(number) {
    const room = known.many - all().length;
    for (let i = 0; i < Math.min(number, room); i++)
      strokes.at(-1).push([at_[0] + 0.015 * random(), at_[1] + 0.015 * random()]);
    draw();
  }
  function draw() {
    const ink = canvas.getContext("2d"),
      style = getComputedStyle(canvas),
      s = size * 2,
      points = all();
    ink.clearRect(0, 0, s, s);
    ink.fillStyle = style.getPropertyValue("--ink");
    for (const [x, y] of points) ink.fillRect(x * s - 2, (1 - y) * s - 2, 4, 4);
    if (document.activeElement === canvas) {
      ink.strokeStyle = style.getPropertyValue("--accent");
      ink.lineWidth = 3;
      ink.beginPath();
      ink.arc(at_[0] * s, (1 - at_[1]) * s, 14, 0, 7);
      ink.stroke();
    }
    count.textContent = points.length
      ? `${points.length.toLocaleString("en")} of ${known.many.toLocaleString("en")} points`
      : "no points yet";
    learn.disabled = points.length < known.few;
  }
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    at_ = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    pressed = true;
    canvas.setPointerCapture(event.pointerId);
    strokes.push([]);
    place(event);
    spray(6);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (pressed) {
      place(event);
      spray(6);
    }
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => {
      pressed = false;
    });
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => draw());
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (move) at_ = at_.map((v, i) => Math.min(0.98, Math.max(0.02, v + 0.03 * move[i])));
    else if (event.key === " ") {
      if (!event.repeat || !strokes.length) strokes.push([]);
      spray(20);
    } else return;
    event.preventDefault();
    draw();
  });
  const learn = button("Learn these", () => use(all().map(([x, y]) => [2 * x - 1, 2 * y - 1])), {
    class: "primary",
    disabled: true,
  });
  const text = h("textarea", {
    rows: 6,
    placeholder: "0.1 0.2\n0.3, 0.4\n…",
    "aria-label": "Points, one a line: x and y",
    spellcheck: false,
  });
  const paste = button("Learn the pasted points", () => {
    const rows = text.value
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean)
      .map((line) => line.split(/[\s,;]+/).map(Number));
    const bad = rows.findIndex((row) => row.length !== 2 || !row.every(Number.isFinite));
    if (bad >= 0 || !rows.length) {
      say(rows.length ? `line ${bad + 1} is not two numbers` : "paste points first, one a line: x and y", true);
      return;
    }
    use(rows);
  });
  const node = h(
    "div.lab-own",
    {},
    canvas,
    h(
      "div.stack",
      {},
      h("p", {}, "Draw with the pointer, or focus the square, move with the arrow keys and press space."),
      h(
        "p.row",
        {},
        learn,
        button("Undo", () => {
          strokes.pop();
          draw();
        }),
        button("Clear", () => {
          strokes.length = 0;
          draw();
        }),
      ),
      h("p.soft", {}, count),
      h("details", {}, h("summary", {}, "Paste points"), text, h("p", {}, paste)),
    ),
  );
  node.focus_ = () => {
    draw();
    canvas.focus({ preventScroll: true });
  };
  return node;
}
