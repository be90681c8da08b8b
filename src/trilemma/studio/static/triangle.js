// The trilemma: quality, coverage and speed of each family on one triangle, with errors, and the table beneath it.
import { h, hue, marker, named, scored, short, title } from "/static/lib.js";

const CENTRE = [210, 216],
  RADIUS = 168;
const CORNERS = [-90, 150, 30].map((a) => [Math.cos((a * Math.PI) / 180), Math.sin((a * Math.PI) / 180)]);
const spot = (axis, share) => {
  const s = Math.min(Math.max(share, 0), 1.08);
  return [CENTRE[0] + RADIUS * s * CORNERS[axis][0], CENTRE[1] + RADIUS * s * CORNERS[axis][1]];
};
const points = (list) => list.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");

/** A triangle and a table of rows {family, key, name?, scores}. */
export function triangle(rows) {
  const known = rows.filter((row) => row.scores?.images_per_second || row.scores?.mutual_fidelity);
  const speeds = known.map((row) => row.scores.images_per_second?.value).filter((v) => v > 0);
  const high = Math.max(...speeds, 1) * 1.25,
    low = Math.min(Math.min(...speeds, high) / 3, high / 100);
  const speed = (v) => (Math.log(Math.max(v, low)) - Math.log(low)) / (Math.log(high) - Math.log(low));
  const distrust = known.map((row) => row.scores.distrust).find((lines) => lines?.length);
  const quality = distrust && known.some((row) => row.scores.passed) ? "passed" : "mutual_fidelity";
  const frame = [
    h("path.tri-frame", { d: `M${points([0, 1, 2].map((a) => spot(a, 1)))}Z` }),
    h("path.tri-inner", { d: `M${points([0, 1, 2].map((a) => spot(a, 0.5)))}Z` }),
    ...[0, 1, 2].map((a) => h("path.tri-inner", { d: `M${points([CENTRE, spot(a, 1)])}` })),
    h("text", { x: CENTRE[0], y: 30, "text-anchor": "middle" }, "quality"),
    h("text", { x: 8, y: 326 }, "coverage"),
    h("text", { x: 412, y: 326, "text-anchor": "end" }, speeds.length ? `speed, to ${short(high / 1.25)}/s` : "speed"),
  ];
  const groups = known.map((row) => {
    const marks = [
      [row.scores[quality], (v) => v],
      [row.scores.mutual_coverage, (v) => v],
      [row.scores.images_per_second, speed],
    ];
    const there = marks
      .map(([score, scale], axis) =>
        score && Number.isFinite(score.value) ? { axis, at: spot(axis, scale(score.value)), score, scale } : null,
      )
      .filter(Boolean);
    const bars = there
      .filter(({ score }) => score.error)
      .map(({ axis, score, scale }) =>
        h("path.tri-bar", {
          d: `M${points([spot(axis, scale(Math.max(score.value - score.error, axis === 2 ? low : 0))), spot(axis, scale(score.value + score.error))])}`,
        }),
      );
    return h(
      "g.tri-family",
      { class: hue(row.family), "data-key": row.key },
      h("title", {}, row.name ?? title(row.family)),
      there.length > 1
        ? h("path.tri-area", { d: `M${points(there.map((each) => each.at))}${there.length === 3 ? "Z" : ""}` })
        : null,
      bars,
      there.map(({ at: [x, y], score }) => marker(row.family, x, y, 6, Boolean(score.flag))),
    );
  });
  const words = known
    .map(
      (row) =>
        `${row.name ?? title(row.family)}: quality ${short(row.scores[quality]?.value)}, coverage ${short(row.scores.mutual_coverage?.value)}, ${short(row.scores.images_per_second?.value)} images a second`,
    )
    .join("; ");
  const drawing = h(
    "svg.triangle",
    {
      viewBox: "0 0 420 336",
      role: "img",
      "aria-label": words || "The triangle of quality, coverage and speed: nothing measured yet",
    },
    frame,
    groups,
  );
  const light = (key) => {
    for (const group of groups) group.classList.toggle("faint", key !== null && group.dataset.key !== key);
  };
  const line = (row) =>
    h(
      "tr",
      { class: hue(row.family), onmouseenter: () => light(row.key), onmouseleave: () => light(null) },
      h("th", { scope: "row" }, h("a", { href: `#/run/${encodeURIComponent(row.key)}` }, named(row.family, row.name))),
      ...(known.includes(row)
        ? [quality, "mutual_coverage", "images_per_second", "frechet", "bits_per_dim"]
            .map((name) => h("td.num", {}, row.scores[name] ? scored(row.scores[name]) : h("span.none", {}, "–")))
            .concat(h("td.num", {}, short(row.scores.n)))
        : [h("td.none", { colSpan: 6 }, "not measured yet")]),
    );
  const table = h(
    "div.scroll",
    {},
    h(
      "table",
      {},
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          [
            "",
            quality === "passed" ? "taken for real" : "fidelity",
            "coverage",
            "images/s",
            "Fréchet",
            "bits/dim",
            "samples",
          ].map((words, i) => h("th", { scope: "col", class: i ? "num" : "" }, words)),
        ),
      ),
      h("tbody", {}, rows.map(line)),
    ),
  );
  const note = known.length
    ? "Fidelity and coverage are multiples of what held-out real images reach: 1 at the corner. Speed is logarithmic. Scores of unequal numbers of samples are not alike. Bars are one standard error, a hollow mark is a flagged value; read the corners and not the area."
    : "The marks appear as the families are measured.";
  return h(
    "div.triangle-and-table",
    {},
    h("figure", {}, drawing, h("figcaption.soft", {}, note)),
    h(
      "div",
      {},
      distrust ? h("p.note", {}, `The scale cannot be trusted on this data: ${distrust.join("; ")}`) : null,
      table,
    ),
  );
}
