"use strict";
// One question after another. What is shown comes from the JSON in #data, which holds no right answers; nothing is fetched or sent.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const STORE = "stprivacy-study-" + data.id;
const COLUMNS = ["study", "participant", "number", "question", "choice", "seconds", "check"];
const TOO_SOON = 250; // milliseconds in which nobody can have seen a clip: a key that is still held down
const HOLD = 3; // ticks between two showings: a blank, so that forwards is told from backwards
let state = null;
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let tick = 0;
let shownAt = 0;

// ---------------------------------------------------------------------------------------------- state

function randomHex(count) {
  return [...crypto.getRandomValues(new Uint8Array(count))].map((value) => value.toString(16).padStart(2, "0")).join("");
}

function shuffled(count) {
  const order = [...Array(count).keys()];
  for (let place = count - 1; place > 0; place--) {
    const other = crypto.getRandomValues(new Uint32Array(1))[0] % (place + 1);
    [order[place], order[other]] = [order[other], order[place]];
  }
  return order;
}

function fresh() {
  return { participant: "p" + randomHex(4), order: shuffled(data.questions.length), answers: [] };
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE));
    return kept && kept.order.length === data.questions.length ? kept : null;
  } catch { return null; } // no storage here, as in private windows: a reload then begins anew
}

function keep() {
  try { localStorage.setItem(STORE, JSON.stringify(state)); } catch { /* see recall */ }
}

function forget() {
  try { localStorage.removeItem(STORE); } catch { /* see recall */ }
}

// ---------------------------------------------------------------------------------------------- clips

function clip(number, label) {
  const made = document.createElement("div");
  made.className = "clip";
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  made.style.backgroundImage = "url(data:image/webp;base64," + data.clips[number] + ")";
  made.style.backgroundSize = data.frames * 100 + "% 100%";
  return made;
}

function drawFrame() {
  const frame = tick % (data.frames + HOLD);
  for (const element of document.querySelectorAll(".clip")) {
    element.classList.toggle("blank", frame >= data.frames);
    element.style.backgroundPosition = (data.frames > 1 ? (100 * Math.min(frame, data.frames - 1)) / (data.frames - 1) : 0) + "% 0";
  }
}

function play(on) {
  playing = on;
  byId("play").textContent = playing ? "Pause" : "Play";
  byId("play").setAttribute("aria-pressed", String(!playing));
}

setInterval(() => { if (playing) { tick += 1; drawFrame(); } }, 1000 / data.rate);

// ---------------------------------------------------------------------------------------------- questions

function show(section) {
  for (const id of ["welcome", "question", "end"]) byId(id).hidden = id !== section;
  byId("progress").hidden = section === "welcome";
}

function ask() {
  const number = state.answers.length;
  byId("progress").value = number;
  if (number === data.questions.length) return finish();
  const question = data.questions[state.order[number]];
  show("question");
  byId("place").textContent = "Question " + (number + 1) + " of " + data.questions.length;
  byId("prompt").textContent = question.prompt;
  byId("question").className = question.layout;
  const own = question.layout === "name" || question.layout === "match" ? question.clips.slice(0, 1) : [];
  const offered = question.clips.slice(own.length);
  byId("stage").replaceChildren(...own.map((index) => clip(index, "the clip in question")));
  byId("answers").replaceChildren(...question.options.map((option, place) => {
    const button = document.createElement("button");
    button.type = "button";
    if (offered.length) button.append(clip(offered[place], option));
    const words = document.createElement("span");
    const key = document.createElement("kbd");
    key.textContent = String(place + 1);
    words.append(option + " ", key);
    button.append(words);
    button.addEventListener("click", () => choose(place));
    return button;
  }));
  tick = 0;
  drawFrame();
  shownAt = performance.now();
  byId("prompt").focus({ preventScroll: true });
  scrollTo(0, 0);
}

function choose(place) {
  const seconds = (performance.now() - shownAt) / 1000;
  if (byId("question").hidden || seconds * 1000 < TOO_SOON) return;
  state.answers.push({ choice: place + 1, seconds: seconds.toFixed(2) });
  keep();
  ask();
}

// ---------------------------------------------------------------------------------------------- the file

// FNV-1a, 32 bits, over the bytes of the text: finds a line that was changed by a slip, not one that was forged.
function check(text) {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return "c" + hash.toString(16).padStart(8, "0");
}

function csv() {
  const lines = state.answers.map((answer, number) => {
    const fields = [data.id, state.participant, number + 1, data.questions[state.order[number]].id, answer.choice, answer.seconds];
    return [...fields, check(fields.join(","))].join(",");
  });
  return [COLUMNS.join(","), ...lines].join("\n") + "\n";
}

function finish() {
  show("end");
  byId("place").textContent = data.title;
  const text = csv();
  byId("text").value = text;
  byId("save").href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  byId("save").download = "answers-" + data.id + "-" + state.participant + ".csv";
  byId("end-heading").focus({ preventScroll: true });
}

// ---------------------------------------------------------------------------------------------- start

byId("begin").addEventListener("click", ask);
byId("play").addEventListener("click", () => play(!playing));
byId("copy").addEventListener("click", () => byId("text").select());
byId("again").addEventListener("click", () => {
  forget();
  state = fresh();
  byId("resumed").hidden = true;
  byId("begin").textContent = "Begin";
  show("welcome");
});
document.addEventListener("keydown", (event) => {
  if (byId("question").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = { 1: 0, ArrowLeft: 0, 2: 1, ArrowRight: 1 }[event.key];
  if (place !== undefined) { event.preventDefault(); choose(place); }
  else if (event.key === "p" || event.key === "P") play(!playing);
});
const kept = recall();
state = kept || fresh();
if (state.answers.length) {
  byId("begin").textContent = "Go on";
  byId("resumed").hidden = false;
  byId("resumed").textContent = "You have answered " + state.answers.length + " questions on this device already.";
}
play(playing);
