// Compare: past comparisons and their pages, and new ones of runs and samples that are there.
import { api, at, attempt, button, field, h, named, poll, say } from "/static/lib.js";
import { triangle } from "/static/triangle.js";

export async function show(place, key) {
  if (key) return page(place, key);
  const [runs, data] = [(await api("/api/runs")).filter((run) => run.trained), await api("/api/data")];
  const chosen = new Set(),
    samples = new Set();
  const corner = h("div");
  const box = (run) =>
    h(
      "label.chip",
      {},
      h("input", {
        type: "checkbox",
        onchange: (e) => {
          e.target.checked ? chosen.add(run.key) : chosen.delete(run.key);
          redraw();
        },
      }),
      named(run.family, run.key),
    );
  const own = data.sets.filter((set) => set.words === "your own");
  const against = h(
    "select",
    {},
    h("option", { value: "" }, "the data of the first run"),
    data.sets.map((set) => h("option", { value: set.source }, set.source)),
  );
  const name = h("input", { type: "text", value: "comparison", maxLength: 60 });
  const n = h("input", { type: "number", value: 1000, min: 100, max: 50000, step: 100 });
  const redraw = () =>
    corner.replaceChildren(
      triangle(
        runs
          .filter((run) => chosen.has(run.key))
          .map((run) => ({ family: run.family, key: run.key, name: run.key, scores: run.scores ?? {} })),
      ),
    );
  const past = h("div.runs");
  place.append(
    h("h1", {}, "Compare on one scale"),
    h(
      "p.lead",
      {},
      "Put runs, the zoo and folders of images side by side: nothing is trained again, and what was measured by the same protocol is not measured twice.",
    ),
    h(
      "section.card.stack",
      {},
      h("h2", {}, "New comparison"),
      runs.length
        ? [...new Set(runs.map((run) => run.data))].map((data) =>
            h(
              "div",
              {},
              h("h3", {}, data),
              h(
                "div.chips",
                { role: "group", "aria-label": `Runs on ${data}` },
                runs.filter((run) => run.data === data).map(box),
              ),
            ),
          )
        : h("p.soft", {}, "There is no trained run yet."),
      own.length
        ? h(
            "div",
            {},
            h("h3", {}, "Your own images as samples"),
            h(
              "div.chips",
              {},
              own.map((set) =>
                h(
                  "label.chip",
                  {},
                  h("input", {
                    type: "checkbox",
                    onchange: (e) => {
                      e.target.checked ? samples.add(set.source) : samples.delete(set.source);
                    },
                  }),
                  set.source,
                ),
              ),
            ),
          )
        : null,
      h(
        "div.fields",
        {},
        field("Against the real images of", against),
        field("Samples of each", n),
        field("Name", name),
      ),
      h("p.row", {}, button("Measure and make the page", start, { class: "primary" })),
      h("div", { id: "progress", "aria-live": "polite" }),
    ),
    corner,
    h("h2", {}, "Past comparisons"),
    past,
  );
  async function start() {
    const job = await attempt(() =>
      api("/api/comparisons", {
        runs: [...chosen],
        samples: [...samples],
        against: against.value,
        name: name.value,
        n: Number(n.value),
      }),
    );
    if (!job) return;
    const shown = place.querySelector("#progress");
    poll(shown, 1000, async () => {
      const now = (await api("/api/jobs")).find((each) => each.id === job.id);
      shown.replaceChildren(
        h(
          "p.row",
          {},
          now.status === "done"
            ? h("a.button.primary", { href: `#/compare/${encodeURIComponent(now.out)}` }, "Open the page")
            : h("span", { class: now.status === "failed" ? "bad" : "soft" }, `${now.status}: ${now.line}`),
          now.status === "running"
            ? button("Stop", () => attempt(() => api(`/api/jobs/${job.id}/stop`, {})), { class: "quiet" })
            : null,
        ),
      );
      if (now.status === "done") {
        say("the page is made");
        return false;
      }
      return !["failed", "stopped"].includes(now.status);
    });
  }
  poll(past, 5000, async () => {
    const list = await api("/api/comparisons");
    past.replaceChildren(
      ...(list.length
        ? list.map((each) =>
            h(
              "a.tile",
              { href: `#/compare/${encodeURIComponent(each.key)}` },
              h("b", {}, each.title),
              h("small", {}, each.families.join(", ")),
              h("small", {}, `${each.key} · ${each.created.slice(0, 16).replace("T", " ")}`),
            ),
          )
        : [h("p.soft", {}, "None yet.")]),
    );
  });
}

async function page(place, key) {
  const entry = (await api("/api/comparisons")).find((each) => each.key === key);
  if (!entry) throw new Error(`there is no comparison ${key} here`);
  const address = at("/comparison/report.html", { comparison: key });
  place.append(
    h(
      "div.spread.over-page",
      {},
      h("h1", {}, entry.key),
      h(
        "span.row",
        {},
        h("a.button", { href: "#/compare" }, "All comparisons"),
        h("a.button", { href: address, target: "_blank", rel: "noopener" }, "Open alone"),
        h(
          "a.button",
          { href: at("/comparison/report.html", { comparison: key, save: 1 }), download: "" },
          "Save the page",
        ),
      ),
    ),
    entry.page
      ? h("iframe.report", { src: address, title: `Report: ${entry.title}` })
      : h("p.bad", {}, "This comparison has no page: trilemma report makes it anew."),
  );
}
