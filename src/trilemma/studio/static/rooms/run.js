// One run: play with it, ask it, see how it learnt.
import { api, at, curve, h, hue, named, poll, seconds, short } from "/static/lib.js";
import { ask } from "/static/ask.js";
import { play } from "/static/play.js";
import { triangle } from "/static/triangle.js";

export async function show(place, key) {
  const run = await api(at("/api/run", { run: key }));
  const panel = h("div", { role: "tabpanel" });
  const rooms = {
    play: ["Play", () => play(panel, run)],
    ask: ["Ask", () => ask(panel, run)],
    log: ["How it learnt", () => log(panel, run)],
  };
  const tabs = h("div.tabs", { role: "tablist", "aria-label": "What to do with it" });
  const open = async (name) => {
    for (const tab of tabs.children) tab.setAttribute("aria-selected", String(tab.dataset.name === name));
    panel.replaceChildren();
    try {
      await rooms[name][1]();
    } catch (error) {
      panel.replaceChildren(h("p.bad", {}, error.message));
    }
  };
  tabs.append(
    ...Object.entries(rooms).map(([name, [words]]) =>
      h(
        "button",
        { type: "button", role: "tab", "data-name": name, "aria-selected": "false", onclick: () => open(name) },
        words,
      ),
    ),
  );
  place.classList.add(hue(run.family));
  place.append(
    h("h1", {}, named(run.family)),
    h(
      "p.soft",
      {},
      `${run.key} · ${run.data}, ${run.vector ? `${run.shape[0]} values` : run.shape.join(" × ")}${run.classes.length ? `, ${run.classes.length} classes` : ""}${run.captions ? ", captions" : ""} · ${short(run.images)} ${run.vector ? "points" : "images"} in ${seconds(run.seconds)} · size ${run.size}, seed ${run.seed}`,
    ),
    tabs,
    panel,
  );
  await open(run.trained ? "play" : "log");
}

async function log(place, run) {
  const image = h("img", { alt: "", hidden: true }),
    range = h("input", { type: "range", min: 1, max: 1, value: 1, "aria-label": "Snapshot" }),
    step = h("output");
  const charts = h("div.charts"),
    corner = h("div");
  let shots = [],
    follow = true;
  const draw = () => {
    const chosen = shots[range.valueAsNumber - 1];
    if (chosen === undefined) return;
    image.src = at("/api/snapshot", { run: run.key, step: chosen });
    image.alt = `Samples at step ${chosen}`;
    image.hidden = false;
    step.textContent = `step ${short(chosen)}`;
  };
  range.addEventListener("input", () => {
    follow = range.valueAsNumber === shots.length;
    draw();
  });
  place.append(
    h("div.frame", { class: run.vector ? "square big" : "big" }, image),
    h("div.time", {}, range, step),
    charts,
    h("h2", {}, "Scores"),
    corner,
  );
  poll(charts, 2000, async () => {
    const now = (await api(at("/api/live", { run: run.key })))[run.key];
    if (now.snapshots.length !== shots.length) {
      shots = now.snapshots;
      range.max = Math.max(1, shots.length);
      if (follow) range.value = shots.length;
      draw();
    }
    charts.replaceChildren(
      ...Object.entries(now.curves).map(([name, points]) =>
        h("figure", {}, curve(points, name, 420, 110), h("figcaption", {}, `${name} ${short(points.at(-1)?.[1])}`)),
      ),
      ...now.alarms.slice(-3).map((line) => h("p.note", {}, line)),
    );
    corner.replaceChildren(triangle([{ family: run.family, key: run.key, scores: now.scores ?? {} }]));
    return now.live;
  });
}
