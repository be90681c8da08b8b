// Play with a run.
import { h } from "/static/lib.js";

export async function play(place) {
  place.append(h("p.soft", {}, "…"));
}
