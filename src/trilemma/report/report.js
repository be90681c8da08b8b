"use strict";
// What the page does beside being read: opens what is pointed at, explains a word, hides and sorts rows, saves and copies.
const all = (query, root = document) => [...root.querySelectorAll(query)];
const make = (tag, words, attributes = {}) =>
  Object.assign(document.createElement(tag), { textContent: words }, attributes);

// ---- open what is pointed at, and everything for paper
const reveal = (id) => {
  const target = id && document.getElementById(id);
  if (!target) return;
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", () => reveal(location.hash.slice(1)));
reveal(location.hash.slice(1));
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (link && !event.defaultPrevented) reveal(link.hash.slice(1)); // also where the address does not change
});
let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details:not([open])");
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});

// ---- a word's meaning, by pointer, key and finger
const tip = make("div", "", { id: "tip", hidden: true });
tip.setAttribute("role", "tooltip");
document.body.append(tip);
let told = null,
  leaving = 0;
const hush = () => {
  tip.hidden = true;
  told?.removeAttribute("aria-describedby");
  told = null;
};
const tell = (link) => {
  clearTimeout(leaving);
  const target = document.getElementById(link.hash.slice(1));
  if (!target || told === link) return;
  hush();
  const words = target.querySelector("dd") ?? target;
  tip.replaceChildren(...[...words.childNodes].map((node) => node.cloneNode(true)));
  tip.hidden = false;
  const at = link.getBoundingClientRect(),
    size = tip.getBoundingClientRect(),
    width = document.documentElement.clientWidth;
  tip.style.left = `${scrollX + Math.max(8, Math.min(at.left, width - size.width - 8))}px`;
  tip.style.top = `${scrollY + (at.bottom + size.height + 8 < innerHeight || at.top < size.height ? at.bottom + 4 : at.top - size.height - 4)}px`;
  link.setAttribute("aria-describedby", "tip");
  told = link;
};
const later = () => {
  leaving = setTimeout(hush, 250);
};
let touched = false;
for (const link of all('a[href^="#means-"], a[href^="#note-"]')) {
  link.classList.add("term");
  link.addEventListener("pointerenter", (event) => {
    if (event.pointerType === "mouse") tell(link);
  });
  link.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") later();
  });
  link.addEventListener("pointerdown", (event) => {
    touched = event.pointerType !== "mouse";
  });
  link.addEventListener("focus", () => {
    if (!touched) tell(link);
  });
  link.addEventListener("blur", later);
  link.addEventListener("click", (event) => {
    if (touched) {
      event.preventDefault();
      if (told === link) hush();
      else tell(link);
    } else hush();
    touched = false;
  });
}
tip.addEventListener("pointerenter", () => clearTimeout(leaving));
tip.addEventListener("pointerleave", later);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hush();
});
document.addEventListener("click", (event) => {
  if (told && !tip.contains(event.target) && !event.target.closest("a.term")) hush();
});

// ---- hide and sort: whatever carries data-row belongs to that row of the report
const rows = all("[data-row]");
const off = new Set();
const find = document.getElementById("find"),
  by = document.getElementById("sort");
const boxes = all(".chooser input[type=checkbox]");
const show = () => {
  off.clear();
  for (const box of boxes) {
    const words = `${box.parentElement.textContent} ${document.querySelector(`.card[data-row="${box.value}"] h3`)?.textContent}`;
    if (!box.checked || !words.toLowerCase().includes(find.value.trim().toLowerCase())) off.add(box.value);
  }
  for (const node of rows) node.classList.toggle("off", off.has(node.dataset.row));
};
const values = (key) =>
  Object.fromEntries(
    all(`td[data-key="${CSS.escape(key)}"]`).map((cell) => [
      cell.closest("[data-row]").dataset.row,
      Number(cell.dataset.value),
    ]),
  );
const lowest = (key) => Boolean(document.querySelector(`th[data-key="${CSS.escape(key)}"]`)?.textContent.includes("↓"));
let order = { key: "", up: true };
const sort = (key, up = lowest(key)) => {
  order = { key, up };
  const value = key ? values(key) : {};
  const rank = (node) => Number(node.dataset.row);
  const compare = (a, b) => {
    const [x, y] = [value[a.dataset.row], value[b.dataset.row]];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || rank(a) - rank(b);
    return (up ? x - y : y - x) || rank(a) - rank(b);
  };
  for (const parent of new Set(rows.filter((node) => !node.closest("svg")).map((node) => node.parentElement))) {
    const inside = [...parent.children].filter((node) => node.dataset.row !== undefined);
    const after = inside.at(-1).nextSibling;
    for (const node of inside.sort(compare)) parent.insertBefore(node, after);
  }
  for (const head of all("th[data-key]")) {
    if (head.dataset.key === key) head.setAttribute("aria-sort", up ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
  if (by) by.value = [...by.options].some((option) => option.value === key) ? key : "";
};
for (const head of all("th[data-key]")) {
  const way = head.querySelector(".way");
  const button = make("button", way.textContent || "⇅", {
    type: "button",
    className: "sort",
    title: "Sort the page by this",
  });
  button.setAttribute(
    "aria-label",
    `Sort by ${head.firstChild.textContent.trim()}${lowest(head.dataset.key) ? ", lower is better ↓" : ""}`,
  );
  button.addEventListener("click", () =>
    sort(head.dataset.key, order.key === head.dataset.key ? !order.up : lowest(head.dataset.key)),
  );
  way.replaceWith(button);
}
for (const chooser of all(".chooser")) chooser.hidden = false;
by?.addEventListener("change", () => sort(by.value, by.value ? lowest(by.value) : true));
find?.addEventListener("input", show);
for (const box of boxes) box.addEventListener("change", show);

// ---- save and copy
const save = (name, type, text) => {
  const link = make("a", "", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
const KEPT = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-opacity",
  "stroke-dasharray",
  "stroke-linejoin",
  "stroke-linecap",
  "opacity",
  "text-anchor",
  "paint-order",
  "font-size",
  "font-weight",
  "font-family",
  "font-variant-numeric",
  "image-rendering",
];
/** The drawings of a figure as one file that needs no style sheet, in the colours of paper. */
const drawn = (figure) => {
  document.documentElement.classList.add("paper");
  const shown = all("svg[role=img]", figure).filter((each) => each.getClientRects().length);
  const cards = shown.map((each) => {
    const copy = each.cloneNode(true),
      old = [each, ...all("*", each)],
      fresh = [copy, ...all("*", copy)];
    fresh.forEach((node, i) => {
      if (node.namespaceURI !== "http://www.w3.org/2000/svg" || ["title", "svg"].includes(node.localName)) return;
      const style = getComputedStyle(old[i]);
      for (const name of KEPT) node.setAttribute(name, style.getPropertyValue(name));
    });
    for (const node of fresh)
      if (node.classList?.contains("off")) node.remove();
      else for (const name of ["class", "data-row"]) node.removeAttribute(name);
    const title = figure.querySelector(".cards") && each.closest(".card")?.querySelector("h3")?.textContent.trim();
    return { copy, title, width: each.viewBox.baseVal.width, height: each.viewBox.baseVal.height };
  });
  document.documentElement.classList.remove("paper");
  const across = Math.min(4, cards.length),
    room = cards[0].title ? 24 : 0,
    gap = cards.length > 1 ? 30 : 0;
  const wide = Math.max(cards[0].width, ...cards.map(({ title }) => 8 * (title ?? "").length)) + gap,
    high = cards[0].height + room + gap;
  const parts = cards.map(({ copy, title }, i) => {
    const x = (i % across) * wide,
      y = Math.floor(i / across) * high;
    copy.setAttribute("x", x);
    copy.setAttribute("y", y + room);
    const head = title
      ? `<text x="${x}" y="${y + 15}" font-family="sans-serif" font-size="13" font-weight="600">${title.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`)}</text>`
      : "";
    return head + new XMLSerializer().serializeToString(copy);
  });
  const size = [across * wide - gap, Math.ceil(cards.length / across) * high - gap];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 ${size[0] + 16} ${size[1] + 16}" width="${size[0] + 16}" height="${size[1] + 16}"><rect x="-8" y="-8" width="100%" height="100%" fill="#fff"/>${parts.join("")}</svg>\n`;
};
const button = (words, does) => {
  const made = make("button", words, { type: "button", className: "small" });
  made.addEventListener("click", does);
  return made;
};
for (const figure of all("figure.plot")) {
  const tools = make("div", "", { className: "tools" });
  tools.append(
    button("SVG", () => save(`${figure.dataset.name}.svg`, "image/svg+xml", drawn(figure))),
    button("CSV", () => save(`${figure.dataset.name}.csv`, "text/csv", figure.dataset.csv)),
  );
  figure.append(tools);
}
const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // not allowed here, or an old browser
    const area = make("textarea", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};
for (const block of all("pre[data-file]")) {
  const text = () =>
    [...block.childNodes]
      .filter((node) => !node.classList?.contains("off"))
      .map((node) => node.textContent)
      .join("");
  const tools = make("div", "", { className: "tools" });
  tools.append(
    button("Copy", async (event) => {
      await copy(text());
      event.target.textContent = "Copied";
      setTimeout(() => {
        event.target.textContent = "Copy";
      }, 1500);
    }),
    button("Save", () => save(block.dataset.file, "text/plain", text())),
  );
  block.before(tools);
}
