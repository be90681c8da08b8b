// Draw a mask or scribble, and every run that can completes it, side by side.
import { api, at, attempt, badge, button, field, h, hue, say, slider, title } from "/static/lib.js";
import { pick } from "/static/play/draw.js";
import { inspect } from "/static/play/inspect.js";
import { base64, choose, meter, paint, parts, picture, pixelsOf, shapeOf } from "/static/play/parts.js";
import { picker } from "/static/play/picker.js";

export async function fill(place, stage, signal) {
  const { run } = stage,
    shape = shapeOf(run),
    [height, width, channels] = shape;
  const peers = await api(at("/api/play/peers", { run: run.key }));
  const able = peers.filter((each) => each.completes),
    not = peers.filter((each) => !each.completes);
  if (!able.length) {
    place.append(
      h(
        "p",
        {},
        "No run of images of this shape can complete one: pixelwise and denoising families can. Train one on the same data, and it appears here.",
      ),
    );
    return;
  }
  let image = null,
    original = null;
  const known = new Uint8Array(width * height).fill(1),
    hand = new Uint8Array(width * height); // 1 where scribbled
  const board = h("canvas.pixels.board", {
    tabIndex: 0,
    role: "img",
    "aria-label":
      "The image, with a check pattern where nothing is kept. Paint with mouse or finger, or choose a ready mask below it.",
  });
  const tool = { kind: "erase", size: Math.max(1, Math.round(width / 9)), colour: [255, 255, 255] };
  let stop = null,
    wait = null;
  signal.addEventListener("abort", () => {
    stop?.abort();
    clearTimeout(wait);
  });

  // the board
  function draw() {
    const shown = new Uint8Array(height * width * 3);
    for (let i = 0; i < width * height; i++)
      for (let c = 0; c < 3; c++)
        shown[3 * i + c] = known[i]
          ? image[i * channels + (channels === 1 ? 0 : c)]
          : ((i % width) + Math.floor(i / width)) % 2
            ? 148
            : 108;
    paint(board, shown, [height, width, 3]);
  }
  function dab(x, y) {
    const r = tool.size / 2;
    for (let j = Math.max(0, Math.ceil(y - r - 0.5)); j < Math.min(height, y + r); j++)
      for (let i = Math.max(0, Math.ceil(x - r - 0.5)); i < Math.min(width, x + r); i++) {
        if ((i + 0.5 - x) ** 2 + (j + 0.5 - y) ** 2 > Math.max(0.5, r * r)) continue;
        const at = j * width + i;
        known[at] = tool.kind === "erase" ? 0 : 1;
        if (tool.kind === "scribble") {
          hand[at] = 1;
          for (let c = 0; c < channels; c++)
            image[at * channels + c] =
              channels === 1
                ? Math.round(0.299 * tool.colour[0] + 0.587 * tool.colour[1] + 0.114 * tool.colour[2])
                : tool.colour[c];
        }
        if (tool.kind === "keep" && hand[at]) {
          hand[at] = 0;
          image.set(original.subarray(at * channels, (at + 1) * channels), at * channels);
        }
      }
  }
  let before = null;
  const spot = (event) => {
    const box = board.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  const stroke = (event) => {
    const [x, y] = spot(event),
      [px, py] = before ?? [x, y],
      steps = Math.max(1, Math.ceil(Math.hypot(x - px, y - py)));
    for (let k = 0; k <= steps; k++) dab(px + ((x - px) * k) / steps, py + ((y - py) * k) / steps);
    before = [x, y];
    draw();
  };
  board.addEventListener("pointerdown", (event) => {
    if (!image) return;
    board.setPointerCapture(event.pointerId);
    before = null;
    stroke(event);
    event.preventDefault();
  });
  board.addEventListener("pointermove", (event) => {
    if (board.hasPointerCapture(event.pointerId)) stroke(event);
  });
  board.addEventListener("pointerup", () => {
    before = null;
    soon();
  });
  const PRESETS = {
    "lower half": (x, y) => y < height / 2,
    "upper half": (x, y) => y >= height / 2,
    "right half": (x) => x < width / 2,
    middle: (x, y) => Math.abs(x + 0.5 - width / 2) > width / 4 || Math.abs(y + 0.5 - height / 2) > height / 4,
    "three of four pixels": (x, y) => x % 2 === 0 && y % 2 === 0,
    everything: () => false,
    nothing: () => true,
  };
  const preset = (name) => {
    for (let i = 0; i < known.length; i++)
      known[i] = hand[i] || PRESETS[name](i % width, Math.floor(i / width)) ? 1 : 0;
    draw();
    if (name !== "nothing") soon();
  };
  const fresh = () => {
    hand.fill(0);
    image = original.slice();
    draw();
  };

  // what is asked
  const copies = slider("completions of each", { min: 1, max: 8, value: 4 }),
    seed = slider("seed", { min: 0, max: 100, value: 0 });
  for (const node of [copies, seed]) node.input.addEventListener("change", () => soon());
  const thorough = h("input", { type: "checkbox" }),
    auto = h("input", { type: "checkbox", checked: true });
  thorough.addEventListener("change", () => soon());
  const chosen = new Map(
    able.map((peer) => [peer.key, h("input", { type: "checkbox", checked: peer.same, onchange: () => layout() })]),
  );
  const cards = new Map();
  const results = h("div.fills");
  const colours =
    channels === 1
      ? choose(
          "Colour of the scribble",
          [
            ["#ffffff", "white"],
            ["#808080", "grey"],
            ["#000000", "black"],
          ],
          "#ffffff",
          (to) => setColour(to),
        )
      : h("input", {
          type: "color",
          value: "#ffffff",
          "aria-label": "Colour of the scribble",
          oninput: (event) => setColour(event.target.value),
        });
  const setColour = (hex) => {
    tool.colour = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    if (tool.kind !== "scribble") tools.children[2].click();
  };
  const tools = choose(
    "What the brush does",
    [
      ["erase", "take away", "What is painted over is to be drawn"],
      ["keep", "keep", "What is painted over is kept, as it was"],
      ["scribble", "scribble", "What is painted is kept, in the chosen colour"],
    ],
    "erase",
    (to) => {
      tool.kind = to;
    },
  );
  const strip = picker(stage, signal, (each) => take(each), {
    held: true,
    ready: (images) => {
      take(images[0]);
      preset("lower half");
    },
  });
  const classes = run.classes.length
    ? pick([["", "of any class"], ...run.classes.map((name) => [name, name])], () => soon())
    : null;
  function take(each) {
    if (classes) classes.value = run.classes[each.label] ?? each.truly ?? "";
    original = each.pixels.slice();
    image = original.slice();
    hand.fill(0);
    draw();
    soon();
  }

  place.append(
    h(
      "div.fill",
      {},
      h(
        "section.card.stack",
        { "aria-label": "What is kept" },
        board,
        h("div.row", {}, tools),
        h("div.row", {}, colours),
        slider("brush", {
          min: 1,
          max: Math.max(4, Math.round(width / 2)),
          value: tool.size,
          text: (v) => `${v} pixels`,
          oninput: (v) => {
            tool.size = v;
          },
        }),
        h(
          "div.row",
          {},
          field(
            "to be drawn",
            h(
              "select",
              {
                onchange: (e) => {
                  if (e.target.value) preset(e.target.value);
                },
              },
              Object.keys(PRESETS).map((name) => h("option", { value: name }, name)),
            ),
          ),
        ),
        button(
          "Undo the scribble",
          () => {
            fresh();
            soon();
          },
          { class: "quiet" },
        ),
      ),
      h(
        "section.stack",
        { "aria-label": "Completions" },
        h(
          "div.chips",
          { role: "group", "aria-label": "Who completes" },
          able.map((peer) =>
            h(
              "label.chip",
              { class: hue(peer.family), title: peer.key },
              chosen.get(peer.key),
              badge(peer.family),
              h("span", {}, name(peer)),
            ),
          ),
        ),
        not.length
          ? h(
              "details",
              {},
              h("summary.soft", {}, `${not.length} that cannot`),
              h(
                "ul",
                {},
                not.map((peer) => h("li", {}, h("b", {}, name(peer)), `: ${peer.how}`)),
              ),
            )
          : null,
        results,
        h(
          "div.fields",
          {},
          classes ? field("class", classes, "p(unknown | known, class), for the runs that know it") : null,
          copies,
          seed,
          h("label", {}, thorough, " take all steps (ten times as long for denoising runs)"),
          h("label", {}, auto, " answer whenever the image changes"),
        ),
        h(
          "div.row",
          {},
          button("Complete", () => attempt(complete), { class: "primary" }),
          button("Stop", () => stop?.abort()),
        ),
      ),
    ),
    strip,
  );
  function name(peer) {
    return `${title(peer.family)}${peers.filter((each) => each.family === peer.family).length > 1 ? ` (${peer.key})` : ""}`;
  }
  layout();

  function layout() {
    for (const peer of able) {
      if (cards.has(peer.key)) continue;
      const bar = meter(title(peer.family)),
        said = h("small.facts", { "aria-live": "polite" }, "\u00a0");
      const tiles = Array.from({ length: 8 }, (_, i) =>
        h(
          "button.sample",
          { type: "button", disabled: true, "aria-label": `Completion ${i} of ${title(peer.family)}: look closer` },
          picture(shape),
        ),
      );
      const card = h(
        "article.card.filled",
        { class: hue(peer.family) },
        h("h3", {}, h("span.named", {}, badge(peer.family), h("span", {}, name(peer)))),
        h("div.row-of.four", {}, tiles),
        bar,
        said,
      );
      cards.set(peer.key, { card, bar, said, tiles });
    }
    results.replaceChildren(
      ...able.filter((peer) => chosen.get(peer.key).checked).map((peer) => cards.get(peer.key).card),
    );
    sizes();
  }
  function sizes() {
    for (const { tiles } of cards.values())
      tiles.forEach((tile, i) => {
        tile.hidden = i >= copies.input.valueAsNumber;
      });
  }
  function soon() {
    clearTimeout(wait);
    if (auto.checked && image) wait = setTimeout(() => attempt(complete), 350);
  }
  async function complete() {
    if (!image) return;
    if (known.every(Boolean)) {
      say("take something away first");
      return;
    }
    stop?.abort();
    sizes();
    const mine = (stop = new AbortController()),
      asked = {
        pixels: base64(image),
        known: base64(known),
        label: classes?.value ?? "",
        copies: copies.input.valueAsNumber,
        seed: seed.input.valueAsNumber,
        thorough: thorough.checked,
      };
    await Promise.all(
      able
        .filter((peer) => chosen.get(peer.key).checked)
        .map(async (peer) => {
          const { bar, said, tiles } = cards.get(peer.key);
          bar.start();
          tiles.forEach((tile) => tile.classList.add("old"));
          try {
            const found = await parts(
              "/api/play/complete",
              { run: peer.key, ...asked },
              { signal: mine.signal, heard: (share) => stop === mine && bar.heard(share) },
            );
            tiles.forEach((tile, i) => {
              if (i >= found.shape[0]) return;
              tile.classList.remove("old");
              tile.disabled = false;
              paint(tile.firstChild, pixelsOf(found, i), shape);
              tile.onclick = () =>
                inspect(stage, {
                  pixels: pixelsOf(found, i).slice(),
                  label: null,
                  words: `completion ${i} by ${title(peer.family)}`,
                });
            });
            said.textContent = `${found.how}${found.effective ? `; ${found.effective.toFixed(1)} effective particles` : ""} · ${found.seconds.toFixed(1)} s`;
          } catch (error) {
            if (error.name !== "AbortError") said.textContent = error.message;
            else if (stop === mine) said.textContent = "stopped";
          } finally {
            if (stop === mine) bar.idle();
          }
        }),
    );
  }
}
