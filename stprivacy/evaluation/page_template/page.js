"use strict";
// The plot, the selected point and its clips. Everything shown comes from the JSON in #data; nothing is fetched.
const data = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot");
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const SYMBOLS = ["square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star-triangle-up", "bowtie"];
const ACTION = data.action; // the names of its figures, and its title
const NAMES = { test: [ACTION.test, "privacy_cmap"], val: [ACTION.val, "val_privacy_cmap"] };
const NOTES = {
  test: "Test figures, which chose nothing: a point of the front, which validation chose, may lie behind another here.",
  val: "Validation figures, which chose front, knee and choice. Everything above and left of the line is dominated.",
};
let split = "test";
let selected = data.selected;
let playing = !still;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const figure = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits));
const spread = ([mean, low, high]) => figure(mean) + (high > low ? " (" + figure(low) + "–" + figure(high) + ")" : "");
const at = (point, axis) => point.figures[NAMES[split][axis]];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------------------------------------- plot

function hover(point) {
  const lines = ["<b>" + point.method + "</b>"];
  if (point.detail) lines.push(point.detail.replaceAll(", ", "<br>"));
  lines.push("", "test: action " + spread(point.figures[ACTION.test]) + ", cMAP " + spread(point.figures.privacy_cmap));
  lines.push("val: action " + spread(point.figures[ACTION.val]) + ", cMAP " + spread(point.figures.val_privacy_cmap));
  lines.push(point.seeds.length === 1 ? "one seed" : point.seeds.length + " seeds");
  return lines.join("<br>");
}

function bars(points, axis) {
  const values = points.map((point) => at(point, axis));
  return {
    type: "data", symmetric: false, thickness: 1.25, width: 5, visible: values.some(([, low, high]) => high > low),
    array: values.map(([mean, , high]) => high - mean), arrayminus: values.map(([mean, low]) => mean - low),
  };
}

function methodTraces() {
  const order = ["baseline", "raw", "learned"]; // what comes later lies on top
  const sorted = [...data.points].sort((one, other) => order.indexOf(one.kind) - order.indexOf(other.kind));
  const methods = [...new Set(sorted.map((point) => point.method))];
  const baselines = methods.filter((method) => data.points.find((point) => point.method === method).kind === "baseline");
  return methods.map((method) => {
    const points = data.points.filter((point) => point.method === method);
    const kind = points[0].kind;
    const shade = kind === "raw" ? colour("text") : colour(kind);
    return {
      name: method, type: "scatter", mode: "markers", x: points.map((p) => at(p, 0)[0]), y: points.map((p) => at(p, 1)[0]),
      error_x: { ...bars(points, 0), color: shade }, error_y: { ...bars(points, 1), color: shade },
      customdata: points.map((p) => p.id), text: points.map(hover), hovertemplate: "%{text}<extra></extra>",
      marker: {
        size: points.map((p) => (p.id === selected ? 15 : 11)), color: shade, opacity: 1,
        symbol: kind === "raw" ? "x" : kind === "learned" ? "circle" : SYMBOLS[baselines.indexOf(method) % SYMBOLS.length],
        line: { width: points.map((p) => (p.id === selected ? 2.5 : 1)), color: points.map((p) => colour(p.id === selected ? "text" : "page")) },
      },
    };
  });
}

function ring(mark, name) {
  const points = data.points.filter((point) => point.marks.includes(mark));
  return {
    name, type: "scatter", mode: "markers", x: points.map((p) => at(p, 0)[0]), y: points.map((p) => at(p, 1)[0]),
    hoverinfo: "skip", visible: points.length > 0, showlegend: points.length > 0,
    marker: { size: mark === "choice" ? 27 : 21, symbol: mark === "choice" ? "circle-open" : "square-open", color: colour("mark-" + mark), line: { width: 2.5 } },
  };
}

function frontLine() {
  const points = data.front.map((id) => data.points[id]);
  return {
    name: "front", type: "scatter", mode: "lines", hoverinfo: "skip", x: points.map((p) => at(p, 0)[0]), y: points.map((p) => at(p, 1)[0]),
    line: { color: colour("quiet"), width: 1.5, shape: split === "val" ? "hv" : "linear", dash: split === "val" ? "solid" : "dot" },
  };
}

function ranges() {
  const [xs, ys] = [0, 1].map((axis) => data.points.flatMap((point) => at(point, axis).slice(1)));
  ys.push(data.floors.chance.cmap, data.floors.action_only.cmap);
  return [xs, ys].map((values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = Math.max(0.02, (high - low) * 0.08);
    return [low - room, high + room];
  });
}

function layout() {
  const [xrange, yrange] = ranges();
  const narrow = plot.clientWidth < 560;
  const floor = (value, dash, axis) => ({
    type: "line", xref: axis === "y" ? "paper" : "x", yref: axis === "y" ? "y" : "paper",
    x0: axis === "y" ? 0 : value, x1: axis === "y" ? 1 : value, y0: axis === "y" ? value : 0, y1: axis === "y" ? value : 1,
    line: { color: colour("quiet"), width: 1.25, dash },
  });
  const label = (text, y, yanchor) => ({
    text, x: 0, xref: "paper", xanchor: "left", y, yanchor, showarrow: false, font: { size: 12, color: colour("quiet") },
  });
  const { chance, action_only: actionOnly } = data.floors;
  const axis = (title, range) => ({
    title: { text: title, standoff: 10, font: { size: 13 } }, range, gridcolor: colour("rule"), zeroline: false, linecolor: colour("rule"),
    tickfont: { size: 12 }, tickformat: ".2f", nticks: narrow ? 5 : 9, automargin: true,
  });
  const shapes = [floor(chance.cmap, "dot", "y"), floor(actionOnly.cmap, "dash", "y")];
  const annotations = [
    label("floor: chance " + figure(chance.cmap), chance.cmap, "top"),
    label("floor: action label alone " + figure(actionOnly.cmap), actionOnly.cmap, "bottom"),
  ];
  if (chance.action > xrange[0]) shapes.push(floor(chance.action, "dot", "x"));
  return {
    xaxis: axis(ACTION.title + (narrow ? ", more is better →" : " of a fresh recognizer, more is better →"), xrange),
    yaxis: axis(narrow ? "← better, attackers' cMAP" : "← less is better, strongest attacker's cMAP", yrange),
    shapes, annotations, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: narrow ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, color: colour("text"), size: 13 },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("rule"), font: { color: colour("text"), size: 13 }, align: "left" },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", itemclick: "toggle", font: { size: 12 } },
    margin: { l: 56, r: 12, t: 8, b: 48 },
  };
}

function draw() {
  const traces = [frontLine(), ring("choice", "choice"), ring("knee", "knee"), ...methodTraces()];
  Plotly.react(plot, traces, layout(), { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
  document.getElementById("split-note").textContent = NOTES[split];
}

// ---------------------------------------------------------------------------------------------- the selected point

function figures(point) {
  const rows = [
    [ACTION.title.replace("a", "A"), ACTION.test, ACTION.val], ["cMAP", "privacy_cmap", "val_privacy_cmap"],
    ["F1", "privacy_f1", null], ["Leak removed", "leak_removed", null],
  ];
  const cell = (values) => {
    if (!values) return element("td");
    const [mean, low, high] = values;
    const made = element("td", { class: "number" }, figure(mean));
    if (high > low) made.append(element("small", {}, figure(low) + "–" + figure(high)));
    return made;
  };
  return rows.map(([title, test, val]) => element("tr", {}, element("th", { scope: "row" }, title), cell(point.figures[test]), cell(point.figures[val])));
}

function precisions(point) {
  if (!point.ap) return [element("p", { class: "quiet" }, "Recorded for this model's main kept share only; see the table below.")];
  const rows = Object.entries(point.ap).map(([name, ap]) => {
    const track = element("span", { class: "track" });
    const chance = data.chance_ap[name] ?? 0;
    if (ap !== null) track.append(element("s", { style: "width:" + 100 * Math.min(ap, chance) + "%" }));
    if (ap > chance) track.append(element("i", { style: "left:" + 100 * chance + "%;width:" + 100 * (ap - chance) + "%" }));
    return element("div", { class: "ap-row" }, element("span", {}, name.replaceAll("_", " ")), track, element("b", {}, figure(ap)));
  });
  return [...rows, element("p", { class: "quiet" }, "Average precision; the coloured part is what is above chance.")];
}

function clip(number, title) {
  const video = element("video", { muted: "", loop: "", playsinline: "", preload: "auto", "aria-label": title });
  video.muted = true; // the attribute alone is not heeded for elements that a script makes
  video.src = "data:video/mp4;base64," + data.videos[number];
  return element("div", { class: "half" }, video, element("span", {}, title));
}

function clips(point) {
  const pairs = point.clips.map((pair, index) => {
    const halves = element("div");
    if (pair.raw !== null) halves.append(clip(pair.raw, "clip " + (index + 1) + ", raw"));
    if (pair.released !== null) halves.append(clip(pair.released, pair.raw === null ? "clip " + (index + 1) + ", released" : "released"));
    return element("figure", { class: "pair" }, halves);
  });
  return pairs.length ? pairs : [element("p", { class: "quiet" }, "No clips of this point in this page.")];
}

function play() {
  const videos = [...document.querySelectorAll("#clips video")];
  // The first one leads; the others follow it whenever it starts over, so that before and after show the same frame.
  videos.forEach((video) => (playing ? video.play().catch(() => {}) : video.pause()));
  if (videos.length) videos[0].onseeked = () => videos.slice(1).forEach((video) => { video.currentTime = videos[0].currentTime; });
  const button = document.getElementById("play");
  button.textContent = playing ? "Pause" : "Play";
  button.setAttribute("aria-pressed", String(playing));
  button.hidden = videos.length === 0;
}

function select(id, reveal) {
  selected = id;
  const point = data.points[id];
  document.getElementById("detail-name").textContent = point.method + (point.marks.includes("choice") ? ", the policy's choice" : "");
  const seeds = point.kind === "raw" || point.seeds.length === 1 ? "seed " + point.seeds[0] : "seeds " + point.seeds.join(", ");
  document.getElementById("detail-settings").textContent = [point.detail, seeds, point.model_path].filter(Boolean).join(" · ");
  document.getElementById("detail-attacker").textContent = "strongest: " + point.attacker;
  document.getElementById("detail-figures").replaceChildren(...figures(point));
  document.getElementById("detail-ap").replaceChildren(...precisions(point));
  document.getElementById("clips").replaceChildren(...clips(point));
  for (const row of document.querySelectorAll("#points-table tr[data-point]")) {
    const mine = Number(row.dataset.point) === id;
    row.classList.toggle("selected", mine);
    row.querySelector("button").setAttribute("aria-pressed", String(mine));
  }
  play();
  draw();
  if (reveal) document.getElementById("detail").scrollIntoView({ block: "nearest", behavior: still ? "auto" : "smooth" });
}

// ---------------------------------------------------------------------------------------------- start

for (const button of document.querySelectorAll("[data-split]")) {
  button.addEventListener("click", () => {
    split = button.dataset.split;
    for (const other of document.querySelectorAll("[data-split]")) other.setAttribute("aria-pressed", String(other === button));
    draw();
  });
}
document.getElementById("play").addEventListener("click", () => { playing = !playing; play(); });
document.getElementById("points-table").addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-point]");
  if (row) select(Number(row.dataset.point), true);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
select(selected, false);
plot.on("plotly_click", (event) => {
  const id = event.points[0].customdata;
  if (id !== undefined) select(id, true);
});
