// Train: drop a set or name one, look at it, choose who learns it and for how long.
import { about, api, attempt, badge, button, field, h, poll, say, short } from "/static/lib.js";

const BUDGETS = [
  ["20s", "20 seconds"],
  ["1m", "1 minute"],
  ["5m", "5 minutes"],
  ["20m", "20 minutes"],
  ["1h", "1 hour"],
  ["8h", "8 hours"],
];

export async function show(place) {
  const known = await api("/api/data");
  const state = { source: "mnist", look: null };
  const select = h("select", {
    onchange: () => {
      state.source = select.value;
      look();
    },
  });
  const fill = (sets) =>
    select.replaceChildren(
      ...sets.map((set) =>
        h("option", { value: set.source, selected: set.source === state.source }, `${set.source}: ${set.words}`),
      ),
    );
  fill(known.sets);
  const folder = h("input", {
    type: "file",
    webkitdirectory: true,
    multiple: true,
    hidden: true,
    "aria-label": "A folder of images",
    onchange: () => bring([...folder.files]),
  });
  const files = h("input", {
    type: "file",
    multiple: true,
    hidden: true,
    accept: "image/*,.zip,.npz,.npy,.csv,.gz,.idx",
    "aria-label": "Images or an archive",
    onchange: () => bring([...files.files]),
  });
  const drop = h(
    "div.drop",
    {
      ondragover: (e) => {
        e.preventDefault();
        drop.classList.add("over");
      },
      ondragleave: () => drop.classList.remove("over"),
      ondrop: async (e) => {
        e.preventDefault();
        drop.classList.remove("over");
        bring(await dropped(e.dataTransfer));
      },
    },
    h("p", {}, h("b", {}, "Drop a folder of images here"), ", or a zip, npz or csv. Folders inside it become classes."),
    h(
      "p.row",
      {},
      button("Choose a folder", () => folder.click()),
      button("Choose files", () => files.click()),
    ),
    folder,
    files,
    h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Bringing files" }),
  );
  const size = h("input", { type: "number", min: 4, max: 256, placeholder: "own size", onchange: look });
  const grey = h("input", { type: "checkbox", onchange: look });
  const seen = h("div.seen", { "aria-live": "polite" });
  const families = h("div.chips", { role: "group", "aria-label": "Families" });
  const budget = h(
    "select",
    {},
    BUDGETS.map(([value, words]) => h("option", { value, selected: value === "1m" }, words)),
  );
  const preset = h(
    "select",
    {},
    known.sizes.map((name) => h("option", { value: name }, name)),
  );
  const name = h("input", { type: "text", maxLength: 60, placeholder: "as the set" });
  const seed = h("input", { type: "number", value: 0, step: 1 });
  const conditional = h("input", { type: "checkbox" });
  const labelled = h("label.chip", {}, conditional, "learn the classes: p(x|y)");
  const go = h("button.primary", { type: "button", onclick: start }, "Start training");
  const runs = h("div.trainings");

  place.append(
    h("h1", {}, "Watch them learn side by side"),
    h(
      "div.train-form",
      {},
      h(
        "section.card.stack",
        { "aria-label": "The images" },
        h("h2", {}, "1 · The images"),
        drop,
        field("Or a set that is here", select),
        h("div.fields", {}, field("Side in pixels", size), h("div.field", {}, h("label.chip", {}, grey, "grey"))),
        seen,
      ),
      h(
        "section.card.stack",
        { "aria-label": "The training" },
        h("h2", {}, "2 · Who learns them"),
        families,
        labelled,
        h(
          "div.fields",
          {},
          field("Budget of each", budget, "Every family gets the same time on the same share of this machine."),
          field("Size of the networks", preset),
          field("Name", name),
          field("Seed", seed),
        ),
        h("p.row", {}, go),
        h(
          "p.soft",
          {},
          `Up to ${about.slots} at a time on this machine (${about.device}); the others wait their turn. You may close the page.`,
        ),
      ),
    ),
    h("h2", {}, "Trainings"),
    runs,
  );

  function chooseFamilies() {
    const vector = state.look?.vector;
    const before = new Set([...families.querySelectorAll("input:checked")].map((input) => input.value));
    const first = !families.childElementCount;
    families.replaceChildren(
      ...about.families.map((family) => {
        const off = vector && !family.vectors;
        const on = !off && (first ? ["vae", "gan", "diffusion"].includes(family.name) : before.has(family.name));
        return h(
          "label.chip",
          { title: off ? "learns images only" : `gives up: ${family.gives_up}` },
          h("input", { type: "checkbox", value: family.name, checked: on, disabled: off }),
          badge(family.name),
          family.title,
        );
      }),
    );
    labelled.hidden = !state.look?.labels || vector;
    if (labelled.hidden) conditional.checked = false;
  }
  async function look() {
    seen.replaceChildren(h("p.soft", {}, "Looking …"));
    const asked = { source: state.source, image_size: size.value ? Number(size.value) : null, grey: grey.checked };
    try {
      const found = await api("/api/data/look", asked);
      if (asked.source !== state.source) return;
      state.look = found;
      seen.replaceChildren(
        h("img.pixels", {
          src: found.picture,
          alt: `The first images of ${state.source}`,
          class: found.vector ? "points" : "",
        }),
        h(
          "details",
          {},
          h(
            "summary",
            {},
            `${short(found.train)} to learn from, ${found.shape.slice(1).join(" × ")}${found.shape[0] === 3 ? " in colour" : ""}${found.classes.length && found.labels ? `, ${found.classes.length} classes` : ""}`,
          ),
          h("pre", {}, found.words.join("\n")),
        ),
      );
    } catch (error) {
      state.look = null;
      seen.replaceChildren(h("p.bad", {}, error.message));
    }
    go.disabled = !state.look;
    chooseFamilies();
  }
  async function bring(list) {
    const wanted = list.filter(
      (file) => !(file.path || file.webkitRelativePath || file.name).split("/").some((part) => part.startsWith(".")),
    );
    if (!wanted.length) return;
    const bar = drop.querySelector("progress");
    const path = (file) => file.path || file.webkitRelativePath || file.name;
    const first = path(wanted[0]).split("/");
    await attempt(async () => {
      const { upload } = await api("/api/uploads", {
        name: first.length > 1 ? first[0] : wanted.length === 1 ? first[0].replace(/\.\w+$/, "") : "images",
      });
      bar.hidden = false;
      let next = 0,
        done = 0;
      const carry = async () => {
        while (next < wanted.length) {
          const file = wanted[next++];
          const inner = first.length > 1 ? path(file) : `set/${path(file)}`;
          await api(`/api/uploads/${upload}?${new URLSearchParams({ path: inner })}`, file.blob || file, {
            method: "PUT",
            headers: { "content-type": "application/octet-stream" },
          });
          bar.value = ++done / wanted.length;
        }
      };
      try {
        await Promise.all(Array.from({ length: 6 }, carry));
      } catch (error) {
        fetch(`/api/uploads/${upload}`, { method: "DELETE" });
        throw error;
      }
      const { source } = await api(`/api/uploads/${upload}/done`, {});
      state.source = source;
      fill((await api("/api/data")).sets);
      await look();
    });
    bar.hidden = true;
  }
  async function start() {
    const chosen = [...families.querySelectorAll("input:checked")].map((input) => input.value);
    go.disabled = true;
    const made = await attempt(() =>
      api("/api/trainings", {
        source: state.source,
        families: chosen,
        budget: budget.value,
        size: preset.value,
        name: name.value,
        seed: Number(seed.value || 0),
        image_size: size.value ? Number(size.value) : null,
        grey: grey.checked,
        conditional: conditional.checked,
      }),
    );
    go.disabled = false;
    if (made) location.hash = `#/watch/${encodeURIComponent(made.group)}`;
  }
  chooseFamilies();
  look();
  poll(runs, 3000, async () => {
    const list = await api("/api/trainings");
    runs.replaceChildren(
      list.length
        ? h(
            "div.runs",
            {},
            list.map((each) =>
              h(
                "a.tile",
                { href: `#/watch/${encodeURIComponent(each.group)}` },
                h("b", {}, each.group),
                h("small", {}, each.status),
                h(
                  "span.row",
                  {},
                  each.runs.map((run) => badge(run.split("/").pop())),
                ),
              ),
            ),
          )
        : h("p.soft", {}, "None yet."),
    );
  });
}

/** The files of what was dropped, with the folders that they lie in. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = [];
  const walk = async (entry, depth) => {
    if (entry.name.startsWith(".") || depth > 5) return;
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ path: entry.fullPath.replace(/^\//, ""), name: file.name, blob: file });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) break;
      for (const each of some) await walk(each, depth + 1);
    }
  };
  try {
    for (const entry of entries) await walk(entry, 0);
  } catch (error) {
    say(error.message, true);
  }
  return found;
}
