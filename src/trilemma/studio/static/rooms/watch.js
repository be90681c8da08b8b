// Watch a training: one column a family, the same seeds at every snapshot, one slider through time.
import { api, at, attempt, button, curve, h, hue, named, poll, seconds, short } from "/static/lib.js";
import { triangle } from "/static/triangle.js";

const SHOTS = 24;

export async function show(place, group) {
  const state = { at: SHOTS, columns: new Map(), follow: true };
  const range = h("input", {
    type: "range",
    min: 1,
    max: SHOTS,
    value: SHOTS,
    "aria-label": "Time: the share of the training that is shown",
    oninput: () => {
      state.at = range.valueAsNumber;
      state.follow = state.at === SHOTS;
      draw();
    },
  });
  const when = h("output", {}, "now");
  const play = button("Play from the start", () => run(), { class: "quiet" });
  const columns = h("div.columns");
  const corner = h("div");
  const all = h("span.row");
  place.append(
    h("div.spread", {}, h("h1", {}, group), all),
    h("div.time", {}, range, when, play),
    columns,
    h("section", {}, h("h2", {}, "Quality, coverage, speed"), corner),
  );
  let timer = null;
  function run() {
    clearInterval(timer);
    state.at = 1;
    state.follow = false;
    timer = setInterval(() => {
      if (!range.isConnected || state.at >= SHOTS) {
        clearInterval(timer);
        state.follow = true;
        return;
      }
      range.value = ++state.at;
      draw();
    }, 350);
    range.value = 1;
    draw();
  }

  function column(job) {
    const key = job.out;
    const image = h("img", { alt: "", hidden: true });
    const under = h("span", {}, "waiting for its first samples");
    const shown = h("small.step");
    const bar = h("progress", { max: 1, value: 0, "aria-label": `Budget that ${job.family} has spent` });
    const facts = h("small.facts"),
      chart = h("div.chart"),
      buttons = h("div.row"),
      alarms = h("div");
    const node = h(
      "article.column",
      { class: hue(job.family), "aria-label": `${job.family}` },
      h("h3", {}, h("a", { href: `#/run/${encodeURIComponent(key)}` }, named(job.family))),
      h("div.frame", {}, under, image),
      h("div.spread", {}, shown, facts),
      bar,
      chart,
      alarms,
      buttons,
    );
    return { key, node, image, under, shown, bar, facts, chart, buttons, alarms, job, live: null, step: null };
  }

  function draw() {
    when.textContent = state.follow ? "now" : `${Math.round((state.at / SHOTS) * 100)} %`;
    for (const each of state.columns.values()) {
      const shots = each.live?.snapshots ?? [];
      const step = shots[Math.min(state.at, shots.length) - 1];
      if (step === undefined || step === each.step) continue;
      each.step = step;
      const fresh = new Image();
      fresh.src = at("/api/snapshot", { run: each.key, step });
      fresh.decode().then(
        () => {
          if (each.step !== step) return;
          each.image.src = fresh.src;
          each.image.alt = `Samples of ${each.job.family} at step ${step}`;
          each.image.hidden = false;
          each.under.hidden = true;
          each.image.parentElement.classList.toggle("square", fresh.naturalHeight > fresh.naturalWidth * 0.8);
          each.shown.textContent = `step ${short(step)}`;
        },
        () => {
          each.step = null;
        },
      );
    }
  }

  poll(columns, 1000, async () => {
    const { jobs } = await api(at("/api/training", { group }));
    const trains = jobs.filter((job) => job.verb === "train");
    for (const job of trains)
      if (!state.columns.has(job.id)) {
        const made = column(job);
        state.columns.set(job.id, made);
        columns.append(made.node);
      }
    const live = await api(at("/api/live", { run: trains.map((job) => job.out) }));
    for (const job of trains) {
      const each = state.columns.get(job.id),
        now = live[job.out];
      const after = jobs.filter((other) => other.out === job.out && other.verb !== "train").pop();
      each.job = job;
      each.live = now;
      each.bar.value = job.spent ?? 0;
      const waits = {
        queued: "waiting its turn",
        paused: "paused, saved",
        failed: job.line,
        stopped: "stopped, saved",
        done: after
          ? ({
              running: `measuring … ${after.line.slice(0, 60)}`,
              queued: "to be measured",
              done: "trained and measured",
              failed: after.line,
              paused: "measuring paused",
            }[after.status] ?? "trained")
          : "trained",
      }[job.status];
      each.facts.textContent = waits ?? `${short(now.images_per_second)} images/s · ${seconds(job.left)} left`;
      each.facts.classList.toggle("bad", job.status === "failed" || after?.status === "failed");
      const stamp = `${now.step}`;
      if (each.chart.dataset.stamp !== stamp) {
        each.chart.dataset.stamp = stamp;
        const names = Object.keys(now.curves ?? {}).slice(0, 2);
        each.chart.replaceChildren(
          ...names.map((name) =>
            h(
              "figure",
              {},
              curve(now.curves[name], name),
              h("figcaption", {}, `${name} ${short(now.curves[name].at(-1)?.[1])}`),
            ),
          ),
        );
      }
      each.alarms.replaceChildren(...(now.alarms ?? []).slice(-1).map((line) => h("p.note", {}, line)));
      const options =
        {
          running: [
            ["Pause", "pause"],
            ["Stop and measure", "stop"],
          ],
          queued: [["Pause", "pause"]],
          paused: [
            ["Resume", "resume"],
            ["Stop", "stop"],
          ],
          failed: [["Try again", "resume"]],
          stopped: [["Go on", "resume"]],
        }[job.status] ?? [];
      if (each.buttons.dataset.stamp !== job.status) {
        each.buttons.dataset.stamp = job.status;
        each.buttons.replaceChildren(
          ...options.map(([words, verb]) =>
            button(words, () => attempt(() => api(`/api/jobs/${job.id}/${verb}`, {})), {
              class: "quiet",
              "aria-label": `${words} ${job.family}`,
            }),
          ),
          h("a.button.quiet", { href: `#/run/${encodeURIComponent(job.out)}` }, "Play"),
        );
      }
    }
    draw();
    const state_of = trains.map((job) => job.status).join();
    if (all.dataset.stamp !== state_of) {
      all.dataset.stamp = state_of;
      const some = (status) => trains.filter((job) => job.status === status);
      const steer = (list, verb) => () =>
        attempt(() => Promise.all(list.map((job) => api(`/api/jobs/${job.id}/${verb}`, {}))));
      all.replaceChildren(
        ...[
          some("running").length + some("queued").length
            ? button("Pause all", steer([...some("running"), ...some("queued")], "pause"), { class: "quiet" })
            : null,
          some("paused").length ? button("Resume all", steer(some("paused"), "resume"), { class: "quiet" }) : null,
        ].filter(Boolean),
      );
    }
    const rows = trains.map((job) => ({ family: job.family, key: job.out, scores: live[job.out].scores ?? {} }));
    const seen = JSON.stringify(rows);
    if (corner.dataset.stamp !== seen) {
      corner.dataset.stamp = seen;
      corner.replaceChildren(triangle(rows));
    }
  });
}
