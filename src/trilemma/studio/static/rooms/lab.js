// 2-D points, learnt live.
import { h } from "/static/lib.js";

export async function show(place) {
  place.append(h("h1", {}, "Lab"));
}
