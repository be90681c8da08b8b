// The user study: make one of runs and sets that are there, let raters in, and see what their votes say as they come.
import { api, at, attempt, button, copyable, field, h, named, poll, say, short } from "/static/lib.js";

export async function show(place, key) {
  if (key) return one(place, key);
  const [own, zoo, data] = await Promise.all([api("/api/runs"), api("/api/study/zoo"), api("/api/data")]);
  const runs = [...own.filter((run) => run.trained && !run.vector && !run.key.startsWith("zoo/")), ...zoo];
  const past = h("div.runs");
  place.append(
    h("h1", {}, "Study: what do people see?"),
    h(
      "p.lead",
      {},
      "People judge which images are real, not knowing where any of them is from. It is the oldest measure of a generative model, and the only one that no model can be trained for.",
    ),
    h("h2", {}, "Studies"),
    past,
    make(runs, data.sets),
  );
  poll(past, 4000, async () => {
    const list = await api("/api/studies");
    past.replaceChildren(...(list.length ? list.map(tile) : [h("p.soft", {}, "None yet: make the first below.")]));
  });
}

const FORMS = {
  "real-or-fake real": "Real or generated, one image at a time",
  "pairs real": "Which of two is real",
  "pairs models": "Which of two models' images is better",
};
const ASKED = {
  "real-or-fake real": "Is this image real or generated?",
  "pairs real": "Which of the two is real?",
  "pairs models": "Which of the two is better?",
};
const form = (study) => FORMS[`${study.form} ${study.form === "pairs" ? study.pair : "real"}`];
const exposure = (study) =>
  study.exposure === "staircase" ? "ever shorter moments" : study.exposure ? `${study.exposure} ms each` : null;

function tile(study) {
  if (study.error) return h("div.tile", {}, h("b", {}, study.key), h("small.bad", {}, study.error));
  return h(
    "a.tile",
    { href: `#/study/${encodeURIComponent(study.key)}` },
    h("b", {}, study.key.split("/").pop()),
    h("small", {}, [form(study), exposure(study)].filter(Boolean).join(", ")),
    h("small", {}, study.sources.join(", ")),
    h(
      "span.spread",
      {},
      h("small", {}, `${study.raters} ${study.raters === 1 ? "rater" : "raters"}, ${study.votes} votes`),
      h("small", { class: study.open ? "hue2 live" : "" }, study.open ? "open" : "closed"),
    ),
  );
}

// --------------------------------------------------------------------------------------------------------- making

function make(runs, sets) {
  const chosen = new Set(),
    samples = new Set();
  const toggle = (set, value) => (e) => {
    e.target.checked ? set.add(value) : set.delete(value);
  };
  const own = sets.filter((set) => set.words === "your own");
  const name = h("input", { type: "text", value: "study", maxLength: 60 });
  const title = h("input", { type: "text", value: "Real or generated?", maxLength: 120 });
  const kind = h(
    "select",
    {},
    Object.entries(FORMS).map(([value, words]) => h("option", { value }, words)),
  );
  const shown = h(
    "select",
    {},
    h("option", { value: "unlimited" }, "for as long as the rater likes (HYPE∞)"),
    h("option", { value: "staircase" }, "ever shorter, until people err (HYPE time; of one source)"),
    h("option", { value: "500" }, "half a second"),
    h("option", { value: "250" }, "a quarter of a second"),
  );
  const question = h("input", { type: "text", maxLength: 200 });
  const trials = h("input", { type: "number", value: 60, min: 4, max: 2000 });
  const images = h("input", { type: "number", value: 100, min: 2, max: 10000 });
  const against = h(
    "select",
    {},
    h("option", { value: "" }, "the data of the first run"),
    sets.map((set) => h("option", { value: set.source }, set.source)),
  );
  const score = h("input", { type: "checkbox", checked: true });
  const moment = field("Each image is shown", shown),
    asked = field("The question, in your words", question);
  const fits = () => {
    moment.hidden = kind.value.startsWith("pairs");
    question.placeholder = ASKED[kind.value];
  };
  kind.addEventListener("change", fits);
  fits();
  const progress = h("div", { "aria-live": "polite" });
  const start = async () => {
    const [form, pair] = kind.value.split(" ");
    const order = {
      runs: [...chosen],
      samples: [...samples],
      against: against.value,
      name: name.value,
      title: title.value,
      form,
      pair,
      question: question.value,
      exposure: form === "pairs" ? "unlimited" : shown.value,
      images: images.valueAsNumber || 0,
      trials: trials.valueAsNumber || 0,
      score: score.checked,
    };
    const job = await attempt(() => api("/api/studies", order));
    if (job)
      poll(progress, 700, async () => {
        const now = (await api("/api/jobs")).find((each) => each.id === job.id);
        progress.replaceChildren(
          h(
            "p.row",
            {},
            now.status === "done"
              ? h("a.button.primary", { href: `#/study/${encodeURIComponent(now.out)}` }, "Open the study")
              : h("span", { class: now.status === "failed" ? "bad" : "soft" }, `${now.status}: ${now.line}`),
          ),
        );
        if (now.status === "done") say("the study is made");
        return !["done", "failed", "stopped"].includes(now.status);
      });
  };
  return h(
    "section.card.stack.study-new",
    {},
    h("h2", {}, "New study"),
    runs.length
      ? h(
          "div.chips",
          { role: "group", "aria-label": "Runs" },
          runs.map((run) =>
            h(
              "label.chip",
              {},
              h("input", { type: "checkbox", onchange: toggle(chosen, run.key) }),
              named(run.family, run.key),
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
              h("label.chip", {}, h("input", { type: "checkbox", onchange: toggle(samples, set.source) }), set.source),
            ),
          ),
        )
      : null,
    h(
      "div.fields",
      {},
      field("What is asked", kind),
      moment,
      asked,
      field("Real images: held-out ones of", against),
      field("Trials of each rater", trials, "and 6 to practise, 6 easy ones to see who pays attention"),
      field("Images of each source", images),
      field("Title, for raters", title),
      field("Name of the study", name),
    ),
    h("label.row", {}, score, h("span", {}, "Tell raters at the end how often they were right")),
    h("p.row", {}, button("Make the study", start, { class: "primary" })),
    progress,
  );
}

// -------------------------------------------------------------------------------------------------------- one study

async function one(place, key) {
  const fetched = () => api(at("/api/study", { study: key }));
  const study = await fetched();
  const doors = h("div.card.stack"),
    found = h("div");
  place.append(
    h("div.spread", {}, h("h1", {}, study.title), h("a.button", { href: "#/study" }, "All studies")),
    h(
      "p.lead",
      {},
      [study.key.split("/").pop(), form(study), exposure(study), `real images: ${study.real}`]
        .filter(Boolean)
        .join(" · "),
    ),
    doors,
    found,
  );
  let before = "";
  const redraw = (now) => {
    if (JSON.stringify(now) === before) return; // nobody loses the focus of a button for nothing
    before = JSON.stringify(now);
    door(doors, now, key, redraw);
    results(found, now);
  };
  redraw(study);
  poll(found, 3000, async () => redraw(await fetched()));
}

function door(place, study, key, redraw) {
  const flip = () =>
    attempt(() => api("/api/study/open", { study: key, open: !study.open })).then(
      (now) => now && redraw({ ...study, ...now }),
    );
  place.replaceChildren(
    h(
      "div.spread",
      {},
      h(
        "p",
        {},
        h("b", {}, `${study.raters} ${study.raters === 1 ? "rater" : "raters"}, ${study.votes} votes`),
        `, ${study.trials} of each who goes to the end`,
      ),
      h(
        "span.row",
        {},
        study.open ? h("a.button.primary", { href: study.link, target: "_blank", rel: "noopener" }, "Take part") : null,
        button(study.open ? "Close it to raters" : "Open it to raters", flip),
        study.votes
          ? ["csv", "json"].map((kind) =>
              h(
                "a.button",
                { href: at("/api/study/votes", { study: key, kind }), download: "" },
                `Votes as ${kind.toUpperCase()}`,
              ),
            )
          : null,
      ),
    ),
    study.open
      ? h(
          "div",
          {},
          h(
            "p.soft",
            {},
            "For people at other machines of your network, this opens the study alone, without the studio, and prints their link:",
          ),
          copyable(study.command),
        )
      : h("p.soft", {}, "Nobody can vote now; who was in the middle goes on when it is open again."),
  );
}

/** What the votes say: in words, as intervals beside chance, and every number. */
function results(place, study) {
  const found = study.results;
  if (!found) {
    place.replaceChildren(
      h("p.soft.study-line", {}, study.line || "Nobody has voted yet. What is found stands here as the votes come in."),
    );
    return;
  }
  const rated = found.rows.filter((row) => row.error_rate?.value !== null && row.error_rate?.value !== undefined);
  const compared = found.rows.filter((row) => row.strength?.value !== null && row.strength?.value !== undefined);
  place.replaceChildren(
    h("h2", {}, "What the votes say so far"),
    rated.length
      ? figure("How often people err", "error_rate", rated, {
          low: 0,
          high: Math.min(1, Math.max(0.6, ...rated.map((row) => row.error_rate.high ?? row.error_rate.value))),
          marks: [[0.5, "chance"], ...(found.landmark.value ? [[found.landmark.value, "StyleGAN, faces, 2019"]] : [])],
          text: (v) => `${Math.round(100 * v)} %`,
        })
      : "",
    compared.length
      ? figure("Strength in pairs (Bradley–Terry, log odds)", "strength", compared, {
          ...range(compared),
          marks: [[0, "average"]],
          text: (v) => short(v, 2).replace("-", "−"),
        })
      : "",
    h(
      "ul",
      {},
      found.readings.map((line) => h("li", {}, line)),
    ),
    table(found.rows),
  );
}

const COLUMNS = [
  ["error_rate", "error rate"],
  ["fakes", "generated taken for real"],
  ["reals", "real taken for generated"],
  ["d_prime", "d′"],
  ["bias", "bias"],
  ["strength", "strength"],
  ["exposure", "HYPE time, ms"],
];
function table(rows) {
  const shown = COLUMNS.filter(([name]) =>
    rows.some((row) => row[name]?.value !== null && row[name]?.value !== undefined),
  );
  const share = new Set(["error_rate", "fakes", "reals"]);
  const cell = (name, number) => {
    if (number?.value === null || number?.value === undefined)
      return h("td.num", {}, h("span.none", { title: number?.note || "" }, "–"));
    const say = (v) => (share.has(name) ? `${(100 * v).toFixed(1)}` : short(v, 2).replace("-", "−"));
    return h(
      "td.num",
      {},
      h(
        "span.score",
        {},
        say(number.value),
        share.has(name) ? " %" : "",
        number.low === null ? "" : h("small", {}, ` ${say(number.low)} – ${say(number.high)}`),
      ),
    );
  };
  return h(
    "div.scroll.study-table",
    { tabIndex: 0, role: "region", "aria-label": "Numbers of each source" },
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", {}, "source"),
          shown.map(([, words]) => h("th.num", {}, words)),
          h("th.num", {}, "votes"),
          h("th.num", {}, "votes needed"),
          h("th", {}, "beside real images"),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            h("td", {}, row.source),
            shown.map(([name]) => cell(name, row[name])),
            h("td.num", {}, String(row.votes)),
            h(
              "td.num",
              {},
              row.needed === null
                ? "–"
                : row.needed === 0
                  ? "enough"
                  : Number(row.needed.toPrecision(2)).toLocaleString("en"),
            ),
            h("td", {}, row.says),
          ),
        ),
      ),
    ),
  );
}

function range(rows) {
  const ends = rows
    .flatMap((row) => [row.strength.value, row.strength.low, row.strength.high])
    .filter((v) => v !== null);
  const most = Math.max(0.5, ...ends.map(Math.abs)) * 1.1;
  return { low: -most, high: most };
}

/** Each source's value with its 95 % interval on one axis, which has the marks that it is read beside. */
function figure(title, name, rows, { low, high, marks, text }) {
  const width = Math.max(300, Math.min(820, innerWidth - 48)),
    left = Math.min(150, width / 3.4),
    right = 56,
    line = 34,
    top = 30,
    height = top + rows.length * line + 6;
  const x = (v) => left + ((Math.min(Math.max(v, low), high) - low) / (high - low)) * (width - left - right);
  const parts = marks.map(([at, words], i) => [
    h("path.study-mark", { d: `M${x(at)} ${top - 6}V${height - 4}` }),
    h("text.dim", { x: x(at), y: 14, "text-anchor": i ? "end" : "middle" }, words),
  ]);
  rows.forEach((row, i) => {
    const y = top + i * line + line / 2,
      number = row[name];
    const label = row.source.length > left / 9 ? `${row.source.slice(0, left / 9 - 1)}…` : row.source;
    parts.push(
      h(
        "text",
        { x: left - 12, y: y + 4, "text-anchor": "end" },
        label,
        row.source === label ? null : h("title", {}, row.source),
      ),
    );
    if (number.low !== null) parts.push(h("path.study-bar", { d: `M${x(number.low)} ${y}H${x(number.high)}` }));
    parts.push(
      h("circle.study-dot", { cx: x(number.value), cy: y, r: 5 }),
      h("text", { x: width - right + 12, y: y + 4 }, text(number.value)),
    );
  });
  const said = rows.map((row) => `${row.source} ${text(row[name].value)}`).join(", ");
  return h(
    "figure.study-figure",
    {},
    h("figcaption", {}, `${title}, with 95 % intervals over raters and images`),
    h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${said}` }, parts),
  );
}
