// What every room builds with: elements, requests, the families' signs, numbers in words.

/** An element. Text children are text, never markup, so that nothing from outside becomes a tag. */
export function h(name, props = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const svg = SVG.has(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.setAttribute("class", [...classes, value].join(" "));
    else if (key === "vars") for (const [name, v] of Object.entries(value)) node.style.setProperty(name, v);
    else if (!svg && key in node && key !== "list" && key !== "form") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const SVG = new Set(["svg", "path", "g", "line", "circle", "text", "rect", "polyline", "title"]);

/** Ask the server; what it refuses becomes an Error with its one line. */
export async function api(path, body, options = {}) {
  const init = { ...options };
  if (body !== undefined && body !== null) {
    init.method ??= "POST";
    init.body =
      typeof body === "object" && !(body instanceof Blob) && !(body instanceof ArrayBuffer)
        ? JSON.stringify(body)
        : body;
    init.headers = { "content-type": "application/json", ...(init.headers || {}) };
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the studio does not answer: is it still running?");
  }
  if (!answer.ok) {
    let line = `${answer.status} ${answer.statusText}`;
    try {
      line = (await answer.json()).error || line;
    } catch {
      /* no JSON */
    }
    const error = new Error(line);
    error.status = answer.status;
    throw error;
  }
  return (answer.headers.get("content-type") || "").includes("json") ? answer.json() : answer;
}

/** An address with its parameters. */
export const at = (path, params) =>
  `${path}?${new URLSearchParams(Object.entries(params).flatMap(([k, v]) => (Array.isArray(v) ? v.map((each) => [k, each]) : [[k, v]])))}`;

/** Say something in passing; errors stay longer. */
export function say(line, bad = false) {
  const place = document.getElementById("said");
  const note = h("p", { class: bad ? "bad" : "" }, line);
  place.replaceChildren(note);
  clearTimeout(say.timer);
  say.timer = setTimeout(() => note.remove(), bad ? 12000 : 5000);
}

/** Run something that may be refused, and say so where it is. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
    return undefined;
  }
}

export const about = { families: [], byName: {} };

/** The marker of a family, as in the report: its shape and its hue. */
export function badge(name) {
  const family = about.byName[name];
  if (!family) return h("span");
  return h(
    "svg.badge",
    { viewBox: "-8 -8 16 16", "aria-hidden": "true", class: `hue${family.hue}` },
    marker(name, 0, 0, 6.5),
  );
}
export function marker(name, x, y, radius = 5.5, hollow = false) {
  const points = about.byName[name].marker.map(
    ([u, v]) => `${(x + radius * u).toFixed(1)},${(y + radius * v).toFixed(1)}`,
  );
  return h("path.marker", { class: hollow ? "hollow" : "", d: `M${points.join("L")}Z` });
}
export const hue = (name) => `hue${about.byName[name]?.hue ?? 0}`;
export const title = (name) => about.byName[name]?.title ?? name;
export const named = (name, words) => h("span.named", {}, badge(name), h("span", {}, words ?? title(name)));

/** A number in few digits. */
export function short(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(digits)} M`;
  if (size >= 1e4) return `${Math.round(value / 1e3)} k`;
  if (size >= 1e3) return Math.round(value).toLocaleString("en");
  return size >= 100
    ? value.toFixed(0)
    : size >= 0.0005 || size === 0
      ? String(Number(value.toPrecision(digits)))
      : value.toExponential(1);
}
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 100) return `${Math.max(0, Math.round(value))} s`;
  return value < 6000 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}
/** A score with its error: `0.71 ± 0.03`. */
export function scored(score) {
  if (!score || score.value === null || score.value === undefined) return h("span.none", {}, "no value");
  const bound = score.kind === "bound" ? "≤ " : "";
  return h(
    "span.score",
    { title: score.flag || "" },
    `${bound}${short(score.value)}`,
    score.error ? h("small", {}, ` ± ${short(score.error, 2)}`) : null,
    score.flag ? h("abbr.flag", { title: score.flag }, "!") : null,
  );
}

/** Call again and again while the element is on the page and the page is looked at. */
export function poll(node, every, work) {
  let waiting = false,
    over = false;
  const step = async () => {
    if (over || (node.dataset.seen && !node.isConnected)) {
      clearInterval(timer);
      return;
    }
    if (node.isConnected) node.dataset.seen = "1";
    if (waiting || document.hidden) return;
    waiting = true;
    try {
      if ((await work()) === false) {
        over = true;
        clearInterval(timer);
      }
    } catch (error) {
      if (error.name !== "AbortError") say(error.message, true);
    } finally {
      waiting = false;
    }
  };
  const timer = setInterval(step, every);
  step();
  return () => clearInterval(timer);
}

/** The newest of many calls wins: while one runs, only the last that comes is kept. For sliders. */
export function latest(work) {
  let running = false,
    next = null;
  return async function call(...args) {
    if (running) {
      next = args;
      return;
    }
    running = true;
    try {
      await work(...args);
    } catch (error) {
      if (error.name !== "AbortError") say(error.message, true);
    } finally {
      running = false;
      if (next) {
        const again = next;
        next = null;
        call(...again);
      }
    }
  };
}

/** A labelled field. */
export function field(label, input, help) {
  const id = input.id || `f${(field.count = (field.count || 0) + 1)}`;
  input.id = id;
  return h("div.field", {}, h("label", { htmlFor: id }, label), input, help ? h("small", {}, help) : null);
}
export function slider(label, { min, max, step = 1, value, oninput, text = short }) {
  const shown = h("output", {}, text(value));
  const input = h("input", {
    type: "range",
    min,
    max,
    step,
    value,
    oninput: () => {
      shown.textContent = text(input.valueAsNumber);
      oninput?.(input.valueAsNumber);
    },
  });
  const node = field(label, input);
  node.classList.add("slide");
  node.firstChild.append(" ", shown);
  node.input = input;
  return node;
}
export const button = (words, onclick, more = {}) => h("button", { type: "button", onclick, ...more }, words);

/** A line chart of a few points, with its last value written at its end. */
export function curve(points, label, width = 260, height = 70) {
  const known = points.filter(([, y]) => Number.isFinite(y));
  if (known.length < 2)
    return h("svg.curve", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label}: nothing yet` });
  const xs = known.map(([x]) => x),
    sorted = known.map(([, y]) => y).sort((a, b) => a - b);
  const low = sorted[Math.floor(sorted.length * 0.01)],
    high = sorted[Math.ceil(sorted.length * 0.97) - 1];
  const x = (v) => 2 + ((v - xs[0]) / (xs[xs.length - 1] - xs[0] || 1)) * (width - 8);
  const y = (v) => height - 4 - ((Math.min(Math.max(v, low), high) - low) / (high - low || 1)) * (height - 10);
  const path = known.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("L");
  const [lx, ly] = known[known.length - 1];
  return h(
    "svg.curve",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label}, now ${short(ly)}` },
    h("path.line", { d: `M${path}` }),
    h("circle.end-dot", { cx: x(lx), cy: y(ly), r: 2.5 }),
  );
}

/** Copy words, and say that it was done. */
export const copyable = (command) =>
  h(
    "div.command",
    {},
    h("code", {}, command),
    button(
      "Copy",
      async () => {
        await navigator.clipboard.writeText(command);
        say("copied");
      },
      { class: "quiet", title: "Copy the command" },
    ),
  );
