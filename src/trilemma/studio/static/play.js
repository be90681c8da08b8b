// Play with a run: draw, walk through its codes, follow its chain, complete with every other run, look closer at one image.
import { api, at, h } from "/static/lib.js";
import { chain } from "/static/play/chain.js";
import { draw } from "/static/play/draw.js";
import { explore } from "/static/play/explore.js";
import { fill } from "/static/play/fill.js";

export async function play(place, run) {
  const info = await api(at("/api/play", { run: run.key }));
  const stage = { run, info, samples: null };
  const panel = h("div.playroom");
  const rooms = [
    ["Draw", draw],
    info.codes ? [info.codes === "code" ? "Latent space" : "Noise space", explore] : null,
    info.chain ? ["Reverse chain", chain] : null,
    run.vector ? null : ["Complete", fill],
  ].filter(Boolean);
  const choice = h("div.row.ways", { role: "group", "aria-label": "What to play at" });
  let leave = null;
  const open = (index) => {
    leave?.abort();
    leave = new AbortController();
    [...choice.children].forEach((each, i) => each.setAttribute("aria-pressed", String(i === index)));
    const room = h("div");
    panel.replaceChildren(room);
    rooms[index][1](room, stage, leave.signal).catch((error) => {
      if (error.name !== "AbortError") room.append(h("p.bad", {}, error.message));
    });
  };
  choice.append(
    ...rooms.map(([words], i) =>
      h("button", { type: "button", "aria-pressed": "false", onclick: () => open(i) }, words),
    ),
  );
  place.append(rooms.length > 1 ? choice : "", panel);
  open(0);
}
