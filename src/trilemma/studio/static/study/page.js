// A rater's session: images are decoded before they are shown, times are those of frames, and no answer is lost.

const page = document.getElementById("page"),
  live = document.getElementById("said");
const HERE = location.pathname,
  KEY = `study ${HERE}`,
  LATER = `${KEY} unsent`;
const CROSS = 500,
  MASKS = 5,
  MASK = 30; // milliseconds of the cross before an image that is shown for a moment, and masks after it
const ASIDE = 560; // pixels, or a share of the screen, that a small image is made no larger than

function h(name, props = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const button = (words, onclick, kind = "") => h(`button${kind}`, { type: "button", onclick }, words);
const tell = (words) => {
  live.textContent = words;
};
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const frame = () => new Promise((done) => requestAnimationFrame(done));
const store = {
  get(key) {
    try {
      return localStorage.getItem(key) ?? "";
    } catch {
      return this[key] ?? "";
    }
  },
  set(key, value) {
    try {
      value ? localStorage.setItem(key, value) : localStorage.removeItem(key);
    } catch {
      this[key] = value;
    }
  },
};

async function post(what, body) {
  const answer = await fetch(HERE + what, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const found = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (answer.ok) return found;
  throw Object.assign(new Error(found.error), { status: answer.status });
}

// ------------------------------------------------------------------------------------------------------- images

const loaded = new Map();
/** The decoded image at an address of this rater. */
function picture(code, address) {
  if (!loaded.has(address)) {
    loaded.set(
      address,
      (async () => {
        for (let wait = 300; ; wait = Math.min(2 * wait, 5000)) {
          try {
            const answer = await fetch(`${HERE}image/${code}/${address}`);
            if (answer.ok) return await createImageBitmap(await answer.blob());
            if (answer.status === 404) throw Object.assign(new Error("gone"), { over: true });
          } catch (error) {
            if (error.over) {
              loaded.delete(address);
              throw error;
            }
          }
          await sleep(wait);
        }
      })(),
    );
    loaded.get(address).catch(() => {});
  }
  return loaded.get(address);
}
function preload(state) {
  const wanted = new Set(state.images.flat());
  for (const [address, coming] of loaded)
    if (!wanted.has(address)) {
      loaded.delete(address);
      coming.then(
        (bitmap) => bitmap.close(),
        () => {},
      );
    }
  for (const address of wanted) picture(state.code, address);
}

// -------------------------------------------------------------------------------------------------------- words

let onkey = null;
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "INPUT") return;
  const side = { ArrowLeft: 0, 1: 0, ArrowRight: 1, 2: 1 }[event.key];
  if (onkey && onkey(side, event) === true) event.preventDefault();
});

function words(title, ...body) {
  onkey = null;
  page.replaceChildren(h("section.words", {}, h("h1", {}, title), body));
  const first = page.querySelector("button.primary");
  (first ?? page).focus({ preventScroll: true });
  document.title = title;
}

/** The first page. A rater is counted only when somebody presses Start. */
function welcome(line = "") {
  const code = store.get(KEY);
  const input = h("input", {
    type: "text",
    autocapitalize: "off",
    autocomplete: "off",
    spellcheck: false,
    maxLength: 40,
    "aria-label": "Your code",
  });
  words(
    "Welcome",
    h(
      "p",
      {},
      "You will see images and say what you think of each, by one of two buttons. A few to practise come first. You can stop and come back at any time.",
    ),
    h("p.soft", {}, "Your answers are kept under a random code and with nothing else about you."),
    line && h("p", { role: "alert" }, line),
    h(
      "p.row",
      {},
      button(code ? "Go on where you stopped" : "Start", () => begin(code), ".primary"),
      code ? button("Begin anew, as another person", () => begin(""), ".plain") : null,
    ),
    h(
      "details",
      {},
      h("summary", {}, "I have a code from another device"),
      h(
        "form.row",
        {
          onsubmit: (event) => {
            event.preventDefault();
            begin(input.value.trim().toLowerCase());
          },
        },
        input,
        h("button", { type: "submit" }, "Go on"),
      ),
    ),
  );
}

async function begin(code) {
  try {
    const state = await post("begin", { code });
    store.set(KEY, state.code);
    let unsent = null;
    try {
      unsent = JSON.parse(store.get(LATER) || "null");
    } catch {
      /* nothing that was ours */
    }
    if (unsent && unsent.code === state.code && unsent.trial === state.trial) return next(await send(unsent));
    store.set(LATER, "");
    if (state.trial > 0) return next(state);
    preload(state);
    const pairs = state.form === "pairs";
    words(
      state.title,
      h(
        "p",
        {},
        `${state.question} `,
        pairs
          ? "Two images stand side by side; choose one of them."
          : state.exposure
            ? "Each image is seen for a moment only: look at the cross in the middle."
            : "Take the time that you like.",
      ),
      h(
        "ul",
        {},
        h(
          "li.keys",
          {},
          h("kbd", {}, "←"),
          " or ",
          h("kbd", {}, "1"),
          pairs ? " for the left one, " : " for real, ",
          h("kbd", {}, "→"),
          " or ",
          h("kbd", {}, "2"),
          pairs ? " for the right one" : " for generated",
          ", or use the buttons.",
        ),
        h("li", {}, `${state.of - state.practice} ${pairs ? "pairs" : "images"}, after ${state.practice} to practise.`),
        h("li", {}, "Your code, should you go on elsewhere: ", h("span.code", {}, state.code)),
      ),
      h(
        "p",
        {},
        button(state.practice ? "Practise" : "Begin", () => next(state), ".primary"),
      ),
    );
  } catch (error) {
    if (error.status === 400) store.set(KEY, "");
    welcome(error.status ? error.message : "The study does not answer. Try again in a moment.");
  }
}

function done(state) {
  store.set(LATER, "");
  words(
    "Thank you",
    h("p", {}, "That was all; every answer is stored."),
    state.score === null
      ? null
      : [
          h("p.share", {}, `${Math.round(100 * state.score)} %`),
          h("p", {}, "of your answers were right; 50 % is what chance gives."),
        ],
    h("p.soft", {}, "You can close this page. Your code was ", h("span.code", {}, state.code), "."),
    button(
      "Begin anew, as another person",
      () => {
        store.set(KEY, "");
        welcome();
      },
      ".plain",
    ),
  );
}

const rest = (state) =>
  words(
    "Half of it is done",
    h("p", {}, "Look away from the screen for a moment, and go on when you like."),
    button("Go on", () => trial(state), ".primary"),
  );
const ready = (state) =>
  words(
    "Now it counts",
    h("p", {}, "From here on nothing is said about your answers."),
    button("Begin", () => (state.pause ? rest(state) : trial(state)), ".primary"),
  );

function next(state) {
  preload(state);
  if (state.done) return done(state);
  if (state.trial === state.practice && state.practice > 0) return ready(state);
  return state.pause ? rest(state) : trial(state);
}

// -------------------------------------------------------------------------------------------------------- trials

let screen = null;
/** The screen of the trials, built once so that nothing moves from one to the next. */
function built(state) {
  if (screen && screen.node.isConnected) return screen;
  const pairs = state.form === "pairs",
    names = pairs ? ["Left", "Right"] : ["Real", "Generated"];
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" }),
    count = h("span");
  const canvases = (pairs ? [0, 1] : [0]).map(() =>
    h("canvas", { width: state.shape[1], height: state.shape[0], role: "img" }),
  );
  const picks = canvases.map((canvas, side) =>
    pairs
      ? h(
          "button.pick",
          {
            type: "button",
            tabIndex: -1,
            "aria-label": `${names[side]} image`,
            onclick: (event) => onkey?.(side, event),
          },
          canvas,
        )
      : canvas,
  );
  const cross = h("div.cross", { hidden: true, "aria-hidden": "true" }, "+");
  const note = h("p.note");
  const sides = names.map((name, side) =>
    h(
      "button",
      { type: "button", onclick: (event) => onkey?.(side, event) },
      side === 0 ? h("kbd", {}, "←") : null,
      h("span", {}, name),
      side === 1 ? h("kbd", {}, "→") : null,
    ),
  );
  const on = button("Next", (event) => onkey?.(1, event), ".one.primary");
  on.hidden = true;
  const stage = h("div.stage", {}, picks, cross);
  const node = h(
    "section.trial",
    {},
    h("div.bar", {}, bar, count),
    h("h1", {}, state.question),
    stage,
    note,
    h("div.answers", {}, sides, on),
  );
  page.replaceChildren(node);
  document.title = state.title;
  screen = { node, bar, count, canvases, picks, cross, note, sides, on, stage, shape: state.shape };
  fit();
  return screen;
}

/** Every image by the same whole factor of its own pixels, as large as there is room and comfortable. */
function fit() {
  if (!screen || !screen.node.isConnected) return;
  const [height, width] = screen.shape,
    ratio = devicePixelRatio || 1,
    many = screen.canvases.length;
  const gap = parseFloat(getComputedStyle(screen.stage).columnGap) || 0;
  const room = [(screen.stage.clientWidth - (many - 1) * gap) / many - 8, screen.stage.clientHeight - 8];
  const aside = Math.max(ASIDE, 0.6 * innerHeight);
  const most = (Math.min(Math.max(aside, width), room[0]) * ratio) / width,
    tall = (Math.min(Math.max(aside, height), room[1]) * ratio) / height;
  const factor = Math.min(most, tall) >= 1 ? Math.floor(Math.min(most, tall)) : Math.min(most, tall);
  for (const canvas of screen.canvases) {
    canvas.style.setProperty("width", `${(factor * width) / ratio}px`);
    canvas.style.setProperty("height", `${(factor * height) / ratio}px`);
    canvas.classList.toggle("pixels", factor > 1);
  }
}
addEventListener("resize", fit);

function enable(on) {
  for (const node of screen.sides) node.disabled = !on;
  if (screen.picks[0] !== screen.canvases[0]) for (const node of screen.picks) node.disabled = !on;
}
const clear = () => {
  for (const canvas of screen.canvases) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
};

async function trial(state) {
  const s = built(state),
    practice = state.trial < state.practice;
  const at = practice ? state.trial + 1 : state.trial - state.practice + 1,
    of = practice ? state.practice : state.of - state.practice;
  s.bar.value = (at - 1) / of;
  s.count.textContent = `${practice ? "Practice " : ""}${at} of ${of}`;
  s.note.className = "note";
  s.note.textContent = "";
  s.on.hidden = true;
  for (const side of s.sides) side.hidden = false;
  onkey = null;
  enable(false);
  clear();
  let bitmaps;
  try {
    bitmaps = await Promise.all(state.images[0].map((address) => picture(state.code, address)));
  } catch {
    return begin(state.code); // this page was not the only one of this rater
  }
  for (const canvas of s.canvases)
    canvas.setAttribute("aria-label", `Image for ${practice ? "practice " : ""}trial ${at} of ${of}`);
  const draw = () => s.canvases.forEach((canvas, side) => canvas.getContext("2d").drawImage(bitmaps[side], 0, 0));
  let shown = null,
    began;
  if (state.exposure) {
    s.cross.hidden = false;
    for (const start = await frame(); (await frame()) - start < CROSS - 8;);
    s.cross.hidden = true;
    began = await frame();
    draw();
    let now;
    do {
      now = await frame();
    } while (now - began < state.exposure - 8); // the nearest frame, at 60 a second or more
    shown = now - began;
    for (let i = 0; i < MASKS; i++) {
      mask(s.canvases[0]);
      const start = now;
      do {
        now = await frame();
      } while (now - start < MASK - 8);
    }
    clear();
  } else {
    await frame();
    draw();
    began = performance.now();
  }
  enable(true);
  tell(`${s.count.textContent}. ${state.question}`);
  onkey = (side, event) => {
    if (side !== 0 && side !== 1) return false;
    onkey = null;
    enable(false);
    const answer = (state.form === "pairs" ? ["left", "right"] : ["real", "fake"])[side];
    const given = {
      code: state.code,
      trial: state.trial,
      answer,
      milliseconds: Math.max(0, (event?.timeStamp || performance.now()) - began),
      shown,
    };
    store.set(LATER, JSON.stringify(given));
    send(given).then((after) => (after.feedback ? feedback(state, answer, after) : next(after)));
    return true;
  };
}

/** Coloured blocks at random, so that no after-image is left of what was seen. */
function mask(canvas) {
  const context = canvas.getContext("2d"),
    block = Math.max(1, Math.round(canvas.width / 14));
  for (let y = 0; y < canvas.height; y += block)
    for (let x = 0; x < canvas.width; x += block) {
      const [r, g, b] = crypto.getRandomValues(new Uint8Array(3));
      context.fillStyle = `rgb(${r}, ${g}, ${b})`;
      context.fillRect(x, y, block, block);
    }
}

/** Send an answer until the server says that it is stored; it waits on this device meanwhile. */
async function send(given) {
  for (let wait = 1000; ; wait = Math.min(2 * wait, 10000)) {
    try {
      const state = await post("vote", given);
      store.set(LATER, "");
      return state;
    } catch (error) {
      if (error.status === 400) {
        store.set(LATER, "");
        const again = await post("begin", { code: given.code });
        return again;
      }
      const line = error.status ? error.message : "The study does not answer.";
      if (screen?.node.isConnected)
        screen.note.textContent = `${line} Your answer is kept on this device and sent again.`;
      tell(line);
    }
    await sleep(wait);
  }
}

function feedback(state, answer, after) {
  const right = after.feedback === "right";
  const truth =
    state.form === "pairs"
      ? `the ${right === (answer === "left") ? "left" : "right"} one is real`
      : `it is ${right === (answer === "real") ? "real" : "generated"}`;
  screen.note.textContent = `${right ? "Right" : "No"}: ${truth}.`;
  screen.note.className = `note ${right ? "good" : "wrong"}`;
  tell(screen.note.textContent);
  for (const side of screen.sides) side.hidden = true;
  screen.on.hidden = false;
  screen.on.focus({ preventScroll: true });
  onkey = (side) => {
    if (side === undefined) return false;
    onkey = null;
    next(after);
    return true;
  };
}

welcome();
