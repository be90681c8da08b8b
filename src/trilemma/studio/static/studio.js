// The shell: which room is open, and what is being worked on.
import { about, api, attempt, button, h, poll, say } from "/static/lib.js";

const ROOMS = [
  ["", "Gallery", "gallery"],
  ["train", "Train", "train"],
  ["lab", "Lab", "lab"],
  ["compare", "Compare", "compare"],
  ["study", "Study", "study"],
  ["run", "", "run"],
  ["watch", "", "watch"],
];
const main = document.getElementById("main");
const nav = document.getElementById("rooms");

async function open() {
  const [, name = "", ...rest] = location.hash.replace(/^#/, "").split("/");
  const room = ROOMS.find(([key]) => key === name) ?? ROOMS[0];
  for (const link of nav.children) link.toggleAttribute("aria-current", link.dataset.room === room[0]);
  const turn = (open.turn = (open.turn ?? 0) + 1);
  const place = h("div.room", { class: `room-${room[2]}` });
  try {
    const module = await import(`/static/rooms/${room[2]}.js`);
    await module.show(place, decodeURIComponent(rest.join("/")));
  } catch (error) {
    place.replaceChildren(h("p.bad", {}, error.message), button("Try again", open));
  }
  if (turn !== open.turn) return; // another room was opened meanwhile
  if (open.was !== undefined && open.was !== location.hash) (main.focus({ preventScroll: true }), scrollTo(0, 0));
  open.was = location.hash;
  main.replaceChildren(place);
  document.title = room[1] ? `${room[1]} · trilemma studio` : "trilemma studio";
}

nav.replaceChildren(
  ...ROOMS.filter(([, words]) => words).map(([key, words]) => h("a", { href: `#/${key}`, "data-room": key }, words)),
);
const work = document.getElementById("work");
work.addEventListener("click", () => {
  location.hash = "#/train";
});

async function begin() {
  const known = await attempt(() => api("/api/studio"));
  if (!known) {
    setTimeout(begin, 2000);
    return;
  }
  Object.assign(about, known);
  about.byName = Object.fromEntries(about.families.map((family) => [family.name, family]));
  addEventListener("hashchange", open);
  await open();
  poll(work, 2500, async () => {
    const jobs = await api("/api/jobs");
    const running = jobs.filter((job) => job.status === "running"),
      queued = jobs.filter((job) => job.status === "queued");
    work.hidden = !running.length && !queued.length;
    work.textContent = running.length
      ? `${running[0].title}${running.length + queued.length > 1 ? ` and ${running.length + queued.length - 1} more` : ""}`
      : `${queued.length} waiting`;
    work.classList.toggle("busy", running.length > 0);
    for (const job of jobs) {
      const before = begin.known?.[job.id];
      if (before && before !== job.status && job.status === "failed") say(`${job.title}: ${job.line}`, true);
      if (before === "running" && job.status === "done" && job.verb !== "train") say(`${job.title}: done`);
    }
    begin.known = Object.fromEntries(jobs.map((job) => [job.id, job.status]));
  });
}
begin();
