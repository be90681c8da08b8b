// Every run that is there: the zoo's, the studio's own, and those of the folders it was told of.
import { api, at, h, hue, named, poll, scored, seconds, short } from "/static/lib.js";

export async function show(place) {
  const runs = await api("/api/runs");
  const zoo = runs.filter((run) => run.zoo),
    points = zoo.filter((run) => run.vector),
    own = runs.filter((run) => !run.zoo);
  place.append(
    h("h1", {}, "Every family of generative model, on your images"),
    h(
      "p.lead",
      {},
      "Draw from a trained model, ask it what it knows, watch new ones learn side by side on your own pictures, and see where each pays: in quality, in coverage, or in speed.",
    ),
    h(
      "p.row",
      {},
      h("a.button.primary", { href: "#/train" }, "Train on your images"),
      h("a.button", { href: "#/lab" }, "Learn on 2-D points"),
    ),
  );
  if (zoo.length)
    place.append(
      h("h2", {}, "Trained already: the zoo"),
      h("div.runs", {}, zoo.filter((run) => !run.vector).map(tile)),
    );
  if (points.length)
    place.append(h("h3", {}, "Points on a ring of eight Gaussians"), h("div.runs.small", {}, points.map(tile)));
  place.append(h("h2", {}, "Your runs"));
  const list = h("div.runs");
  place.append(
    own.length
      ? list
      : h(
          "p.soft",
          {},
          "None yet. What is trained here, or with ",
          h("code", {}, "trilemma train"),
          " in a folder that the studio looks at, appears here while it learns.",
        ),
  );
  list.append(...own.map(tile));
  poll(list, 3000, async () => {
    const now = (await api("/api/runs")).filter((run) => !run.zoo);
    list.replaceChildren(...now.map((run) => reuse(list, run)));
  });
}

function reuse(list, run) {
  const old = [...list.children].find((node) => node.dataset.key === run.key);
  return old && old.dataset.stamp === stamp(run) ? old : tile(run);
}
const stamp = (run) => `${run.step}/${run.live}/${run.snapshots}/${JSON.stringify(run.scores ?? null)}`;

export function tile(run) {
  if (run.error)
    return h(
      "div.tile",
      { "data-key": run.key, "data-stamp": stamp(run) },
      h("b", {}, run.key),
      h("p.bad", {}, run.error),
    );
  const step = run.snapshots[0];
  const picture =
    step === undefined
      ? h("span", {}, "no samples yet")
      : h("img", {
          src: at("/api/snapshot", { run: run.key, step }),
          alt: `Samples of ${run.title} after ${step} steps`,
          loading: "lazy",
        });
  const fidelity = run.scores?.mutual_fidelity;
  return h(
    "a.tile",
    {
      href: `#/run/${encodeURIComponent(run.key)}`,
      "data-key": run.key,
      "data-stamp": stamp(run),
      class: `${hue(run.family)}${run.vector ? " points" : ""}`,
    },
    h("div.frame", {}, picture),
    h("div.spread", {}, h("b", {}, named(run.family)), run.live ? h("span.live", {}, "learning") : null),
    h("small", {}, `${run.data} · ${short(run.images)} ${run.vector ? "points" : "images"} in ${seconds(run.seconds)}`),
    h(
      "small",
      {},
      run.key,
      fidelity?.value !== undefined && fidelity?.value !== null ? [" · fidelity ", scored(fidelity)] : null,
    ),
  );
}
