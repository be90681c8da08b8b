// The user study: make one of runs and sets that are there, let raters in, and see what their votes say as they come.
import { about, api, at, attempt, button, copyable, field, h, named, poll, say, short } from "/static/lib.js";

export async function show(place, key) {
  if (key) return one(place, key);
  const [runs, data] = [(await api("/api/runs")).filter((run) => run.trained && !run.vector), await api("/api/data")];
  const past = h("div.runs");
  place.append(h("h1", {}, "Study: what do people see?"),
    h("p.lead", {}, "People judge which images are real, not knowing where any of them is from. It is the oldest measure of a generative model, and the only one that no model can be trained for."),
    h("h2", {}, "Studies"), past, make(runs, data.sets));
  poll(past, 4000, async () => {
    const list = await api("/api/studies");
    past.replaceChildren(...(list.length ? list.map(tile) : [h("p.soft", {}, "None yet: make the first below.")]));
  });
}

const FORMS = { "real-or-fake real": "Real or generated, one image at a time", "pairs real": "Which of two is real", "pairs models": "Which of two models' images is better" };
const form = (study) => FORMS[`${study.form} ${study.form === "pairs" ? study.pair : "real"}`];
const exposure = (study) => (study.exposure === "staircase" ? "ever shorter moments" : study.exposure ? `${study.exposure} ms each` : null);

function tile(study) {
  if (study.error) return h("div.tile", {}, h("b", {}, study.key), h("small.bad", {}, study.error));
  return h("a.tile", { href: `#/study/${encodeURIComponent(study.key)}` }, h("b", {}, study.title), h("small", {}, [form(study), exposure(study)].filter(Boolean).join(", ")), h("small", {}, study.sources.join(", ")),
    h("span.spread", {}, h("small", {}, `${study.raters} ${study.raters === 1 ? "rater" : "raters"}, ${study.votes} votes`), h("small", { class: study.open ? "hue2 live" : "" }, study.open ? "open" : "closed")));
}

// --------------------------------------------------------------------------------------------------------- making

function make(runs, sets) {
  const chosen = new Set(), samples = new Set();
  const toggle = (set, value) => (e) => { e.target.checked ? set.add(value) : set.delete(value); };
  const own = sets.filter((set) => set.words === "your own");
  const name = h("input", { type: "text", value: "study", maxLength: 60 });
  const title = h("input", { type: "text", value: "Real or generated?", maxLength: 120 });
  const kind = h("select", {}, Object.entries(FORMS).map(([value, words]) => h("option", { value }, words)));
  const shown = h("select", {}, h("option", { value: "unlimited" }, "for as long as the rater likes (HYPE∞)"), h("option", { value: "staircase" }, "ever shorter, until people err (HYPE time)"), h("option", { value: "500" }, "half a second"), h("option", { value: "250" }, "a quarter of a second"));
  const question = h("input", { type: "text", maxLength: 200, placeholder: "Which of the two is better?" });
  const trials = h("input", { type: "number", value: 60, min: 4, max: 2000 });
  const images = h("input", { type: "number", value: 100, min: 2, max: 10000 });
  const against = h("select", {}, h("option", { value: "" }, "the data of the first run"), sets.map((set) => h("option", { value: set.source }, set.source)));
  const score = h("input", { type: "checkbox", checked: true });
  const moment = field("Each image is shown", shown), asked = field("The question, in your words", question);
  const fits = () => { moment.hidden = kind.value.startsWith("pairs"); };
  kind.addEventListener("change", fits);
  fits();
  const progress = h("div", { "aria-live": "polite" });
  const start = async () => {
    const [form, pair] = kind.value.split(" ");
    const order = { runs: [...chosen], samples: [...samples], against: against.value, name: name.value, title: title.value, form, pair, question: question.value, exposure: form === "pairs" ? "unlimited" : shown.value, images: images.valueAsNumber || 0, trials: trials.valueAsNumber || 0, score: score.checked };
    const job = await attempt(() => api("/api/studies", order));
    if (job) poll(progress, 700, async () => {
      const now = (await api("/api/jobs")).find((each) => each.id === job.id);
      progress.replaceChildren(h("p.row", {}, now.status === "done" ? h("a.button.primary", { href: `#/study/${encodeURIComponent(now.out)}` }, "Open the study") : h("span", { class: now.status === "failed" ? "bad" : "soft" }, `${now.status}: ${now.line}`)));
      if (now.status === "done") say("the study is made");
      return !["done", "failed", "stopped"].includes(now.status);
    });
  };
  return h("section.card.stack", {}, h("h2", {}, "New study"),
    runs.length ? h("div.chips", { role: "group", "aria-label": "Runs" }, runs.map((run) => h("label.chip", {}, h("input", { type: "checkbox", onchange: toggle(chosen, run.key) }), named(run.family, run.key)))) : h("p.soft", {}, "There is no trained run yet."),
    own.length ? h("div", {}, h("h3", {}, "Your own images as samples"), h("div.chips", {}, own.map((set) => h("label.chip", {}, h("input", { type: "checkbox", onchange: toggle(samples, set.source) }), set.source)))) : null,
    h("div.fields", {}, field("What is asked", kind), moment, asked, field("Real images: held-out ones of", against), field("Trials of each rater", trials, "and 6 to practise, 4 easy ones to see who pays attention"), field("Images of each source", images), field("Title, for raters", title), field("Name of the study", name)),
    h("label.row", {}, score, h("span", {}, "Tell raters at the end how often they were right")),
    h("p.row", {}, button("Make the study", start, { class: "primary" })), progress);
}

// -------------------------------------------------------------------------------------------------------- one study

async function one(place, key) {
  const head = h("div"), doors = h("div.card.stack"), found = h("div");
  place.append(head, doors, found);
  let before = "";
  await new Promise((ready) => poll(place, 3000, async () => {
    const study = await api(at("/api/study", { study: key }));
    const now = JSON.stringify(study);
    if (now === before) return;
    if (!before) head.append(h("div.spread", {}, h("h1", {}, study.title), h("a.button", { href: "#/study" }, "All studies")), h("p.lead", {}, [form(study), exposure(study), `real images: ${study.real}`].filter(Boolean).join(" · ")));
    before = now;
    door(doors, study, key);
    results(found, study);
    ready();
  }) && setTimeout(ready, 4000));
}

function door(place, study, key) {
  const flip = () => attempt(() => api("/api/study/open", { study: key, open: !study.open })).then((now) => { if (now) door(place, { ...study, ...now }, key); });
  place.replaceChildren(h("div.spread", {}, h("p", {}, h("b", {}, `${study.raters} ${study.raters === 1 ? "rater" : "raters"}, ${study.votes} votes`), ` of ${study.trials} a rater`), h("span.row", {},
    study.open ? h("a.button.primary", { href: study.link, target: "_blank", rel: "noopener" }, "Take part") : null, button(study.open ? "Close it to raters" : "Open it to raters", flip),
    study.votes ? ["csv", "json"].map((kind) => h("a.button", { href: at("/api/study/votes", { study: key, kind }), download: "" }, `Votes as ${kind.toUpperCase()}`)) : null)),
    study.open ? h("div", {}, h("p.soft", {}, "For people at other machines of your network, this opens the study alone, without the studio, and prints their link:"), copyable(study.command)) : h("p.soft", {}, "Nobody can vote now; who was in the middle goes on when it is open again."));
}

const NAMES = { error_rate: "taken wrongly", error: "taken wrongly", fooled: "taken for real", d_prime: "d′", bias: "bias", criterion: "bias", strength: "strength", agreement: "agreement (α)", votes: "votes", raters: "raters", needed: "votes still needed" };
const isNumber = (value) => value && typeof value === "object" && "value" in value;

/** The rows of results as they come: every number with its interval, then what they say in words. */
function results(place, study) {
  const found = study.results;
  if (!found) { place.replaceChildren(h("p.soft", {}, "Nobody has voted yet. What is found stands here as the votes come in.")); return; }
  const rows = found.rows ?? found.sources ?? [];
  place.replaceChildren(h("h2", {}, "What they say so far"), ...(found.reading ?? []).map((line) => h("p", {}, line)), rows.length ? bars(rows) : null ?? "", rows.length ? table(rows) : "");
}
