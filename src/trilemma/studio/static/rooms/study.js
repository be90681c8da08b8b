// The user study.
import { h } from "/static/lib.js";

export async function show(place) {
  place.append(h("h1", {}, "Study"));
}
