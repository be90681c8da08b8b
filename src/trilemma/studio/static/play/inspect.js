// One image, closer: its nearest training images, its code, and what every run says of its probability.
import { api, at, attempt, badge, h, hue, short, title } from "/static/lib.js";
import { base64, choose, meter, paint, parts, picture, pixelsOf, shapeOf } from "/static/play/parts.js";
import { meant } from "/static/play/picker.js";

const SIGNS = { exact: "=", bound: "≥", estimate: "≈" };

/** Open a dialog about an image: `{ pixels, words, label, seed, index, held, z }`. */
export function inspect(stage, image) {
  const { run, info } = stage,
    shape = shapeOf(run),
    over = new AbortController(),
    { signal } = over;
  const big = picture(shape, image.pixels, image.words),
    label = image.label === null || image.label === undefined ? "" : run.classes[image.label];
  const close = h("button.quiet", { type: "button", onclick: () => box.close() }, "Close");
  const box = h(
    "dialog.inspect",
    { class: hue(run.family), "aria-label": `Closer: ${image.words}` },
    h("div.spread", {}, h("h2", {}, image.words, label ? h("small", {}, ` drawn as ${label}`) : null), close),
    h(
      "div.closer",
      {},
      h(
        "div.stack",
        {},
        big,
        info.codes && (info.encodes || image.z || image.seed !== undefined || info.codes === "code") ? code() : null,
      ),
      h("div.stack", {}, nearest(), rated()),
    ),
  );
  box.addEventListener("close", () => {
    over.abort();
    box.remove();
  });
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close();
  });
  document.body.append(box);
  box.showModal();

  function nearest() {
    const bar = meter("Nearest training images"),
      said = h("small", {}),
      row = Array.from({ length: 8 }, () => h("figure", {}, picture(shape), h("figcaption", {}, "\u00a0")));
    let turn = 0;
    const look = (features) =>
      attempt(async () => {
        const mine = ++turn;
        bar.start();
        try {
          const found = await parts(
            "/api/play/near",
            { run: run.key, pixels: base64(image.pixels), features },
            { signal, heard: (share) => mine === turn && bar.heard(share) },
          );
          if (mine !== turn) return;
          row.forEach((figure, i) => {
            figure.hidden = i >= found.rows.length;
            if (figure.hidden) return;
            paint(figure.firstChild, pixelsOf(found, i), shape);
            figure.lastChild.textContent = short(found.distances[i]);
            figure.title = `training image ${found.rows[i]}${found.labels[i] ? `, ${found.labels[i]}` : ""}`;
          });
          said.textContent = `among ${found.among}; distance in ${found.unit}${found.distances[0] === 0 ? "; the first is the same to the bit" : ""}`;
        } catch (error) {
          if (error.name !== "AbortError" && mine === turn) said.textContent = error.message;
        } finally {
          if (mine === turn) bar.idle();
        }
      });
    look(false);
    return h(
      "section",
      {},
      h("h3", {}, "Nearest training images"),
      h(
        "div.row",
        {},
        choose(
          "By what",
          [
            ["pixels", "by pixels"],
            ["features", "by features"],
          ],
          "pixels",
          (by) => look(by === "features"),
        ),
        bar,
      ),
      h("div.row-of.near", {}, row),
      said,
    );
  }

  function rated() {
    const rows = h("tbody"),
      head = h("p.soft", {}, "…");
    attempt(async () => {
      const peers = (await api(at("/api/play/peers", { run: run.key }))).slice(0, 12);
      if (signal.aborted) return;
      head.textContent =
        "log p(x) as each run knows it: exact, a bound, or undefined. Bits per value: fewer is more probable.";
      for (const peer of peers) {
        const bar = meter(`log p of ${title(peer.family)}`),
          number = h("td.num"),
          kind = h("td", {}, bar),
          map = h("td.map");
        const row = h(
          "tr",
          { class: hue(peer.family) },
          h(
            "th",
            { scope: "row" },
            h(
              "span.named",
              {},
              badge(peer.family),
              h("span", {}, peer.key, peer.same ? null : h("small", {}, ` trained on ${peer.data}`)),
            ),
          ),
          number,
          kind,
          map,
        );
        rows.append(row);
        rate(peer, number, kind, map, bar);
      }
    });
    async function rate(peer, number, kind, map, bar) {
      bar.start();
      try {
        const found = await parts(
          "/api/play/rate",
          { run: peer.key, pixels: base64(image.pixels) },
          { signal, heard: bar.heard },
        );
        if (found.kind === "undefined") number.append(h("span.none", { "aria-hidden": "true" }, "–"));
        else
          number.append(
            h("b", {}, `${found.kind === "bound" ? "≤ " : ""}${short(found.bits)}`),
            h("small", {}, ` bits/dim; log p ${SIGNS[found.kind]} ${found.nats.toFixed(1)} nats`),
          );
        kind.replaceChildren(
          h("span.kind", {}, found.kind),
          h("small", {}, ` ${found.reason}`),
          found.flag ? h("p.note", {}, found.flag) : "",
        );
        if (found.values) {
          map.append(surprise(found.values, found.shape));
          map.append(h("small", {}, "−log₂ p of each pixel"));
        }
      } catch (error) {
        if (error.name !== "AbortError") kind.replaceChildren(h("span.bad", {}, error.message));
      }
    }
    return h(
      "section",
      {},
      h("h3", {}, "How every run rates it"),
      head,
      h("div.scroll", {}, h("table.rates", {}, rows)),
    );
  }

  function code() {
    const bar = meter("Its code"),
      body = h("div");
    const words =
      info.codes === "noise"
        ? "The noise it comes from"
        : image.z || (image.seed !== undefined && info.prior)
          ? "The code that it was drawn from"
          : info.encodes
            ? "Its code by the encoder"
            : "The nearest code that a search finds";
    attempt(async () => {
      bar.start();
      try {
        const z =
          image.z ??
          (
            await parts(
              "/api/play/codes",
              { run: run.key, images: [meant(image, info, base64)] },
              { signal, heard: bar.heard },
            )
          ).values;
        body.append(info.codes === "noise" ? noiseOf(z) : bars(z));
      } catch (error) {
        if (error.name !== "AbortError") body.append(h("small.bad", {}, error.message));
      } finally {
        bar.idle();
      }
    });
    return h("section.code", {}, h("h3", {}, words), body, bar);
  }
  function noiseOf(z) {
    const [height, width, channels] = shape,
      shown = new Uint8Array(z.length);
    for (let c = 0; c < channels; c++)
      for (let i = 0; i < height * width; i++)
        shown[i * channels + c] = Math.min(255, Math.max(0, 127.5 + 50 * z[c * height * width + i]));
    return h(
      "div",
      {},
      picture(shape, shown, "Noise, grey is 0"),
      h(
        "small",
        {},
        `${z.length} values of x_T, root mean square ${Math.sqrt(z.reduce((sum, v) => sum + v * v, 0) / z.length).toFixed(2)}`,
      ),
    );
  }
  function bars(z) {
    const width = 300,
      height = 90,
      step = width / z.length,
      most = Math.max(3, ...z.map(Math.abs));
    const marks = [...z].map((v, i) =>
      h(
        "rect",
        {
          x: (i * step).toFixed(2),
          y: (height / 2 - (Math.max(0, v) / most) * (height / 2 - 2)).toFixed(2),
          width: Math.max(0.8, step - 1).toFixed(2),
          height: ((Math.abs(v) / most) * (height / 2 - 2)).toFixed(2),
        },
        h("title", {}, `z${i} = ${v.toFixed(2)}`),
      ),
    );
    return h(
      "div",
      {},
      h(
        "svg.bars",
        {
          viewBox: `0 0 ${width} ${height}`,
          role: "img",
          "aria-label": `${z.length} values from ${Math.min(...z).toFixed(2)} to ${Math.max(...z).toFixed(2)}`,
        },
        h("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2 }),
        marks,
      ),
      h("small", {}, `${z.length} dimensions from ${Math.min(...z).toFixed(2)} to ${Math.max(...z).toFixed(2)}`),
    );
  }
}

const RAMP = [
  [68, 1, 84],
  [59, 82, 139],
  [33, 145, 140],
  [94, 201, 98],
  [253, 231, 37],
];

/** −log₂ p of each pixel as colours, dark to light, by its square root as in the report. */
export function surprise(values, [height, width]) {
  const top = Math.max(...values) || 1,
    shown = new Uint8Array(3 * values.length);
  values.forEach((v, i) => {
    const at = Math.sqrt(Math.max(0, v) / top) * (RAMP.length - 1),
      low = Math.min(RAMP.length - 2, Math.floor(at));
    for (let c = 0; c < 3; c++) shown[3 * i + c] = RAMP[low][c] + (at - low) * (RAMP[low + 1][c] - RAMP[low][c]);
  });
  return picture([height, width, 3], shown, `Surprise map: the most improbable pixel has ${top.toFixed(1)} bits`);
}
