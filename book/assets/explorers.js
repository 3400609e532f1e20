// Two drawings that follow their controls: the records of the sweeps, and the predicted signal of a network.
// No library. The page works without this file: it then shows the figures that the build drew.
"use strict";

const NS = "http://www.w3.org/2000/svg";
const H = 380, LEFT = 62, RIGHT = 16, TOP = 14, BOTTOM = 50;
// Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1 on.
const T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

function svg(tag, attributes, parent, text) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function control(parent, label, options, onchange) {
  const box = document.createElement("label");
  box.textContent = label + " ";
  const select = document.createElement("select");
  for (const [value, text] of options) select.add(new Option(text, value));
  select.addEventListener("change", onchange);
  box.appendChild(select);
  parent.appendChild(box);
  return select;
}

function interval(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  if (values.length < 2) return { mean, half: 0 };
  const variance = values.reduce((a, v) => a + (v - mean) ** 2, 0) / (values.length - 1);
  return { mean, half: T95[Math.min(values.length - 2, T95.length - 1)] * Math.sqrt(variance / values.length) };
}

function short(value) {
  if (Number.isInteger(value) && Math.abs(value) < 1e5) return String(value);
  return Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(0)
    : String(Number(value.toPrecision(3)));
}

// Round numbers between two ends; on an axis of powers the ends are exponents.
function ticks(low, high, powers) {
  if (powers && high - low > 1) {
    const every = Math.ceil((high - low) / 6), found = [];
    for (let k = Math.floor(low); k <= high; k++) {
      if (k % every === 0) for (const m of high - low < 3 ? [1, 2, 5] : [1]) found.push(m * 10 ** k);
    }
    return found.filter((v) => Math.log10(v) >= low && Math.log10(v) <= high);
  }
  const [a, b] = powers ? [10 ** low, 10 ** high] : [low, high];
  const size = 10 ** Math.floor(Math.log10((b - a) / 4));
  const step = size * [1, 2, 5, 10].find((m) => b - a <= 6 * m * size);
  const found = [];
  for (let k = Math.ceil(a / step); k * step <= b; k++) found.push(Number((k * step).toPrecision(6)));
  return found;
}

// lines: [{name, colour, points: [{x, y, half}]}]
function draw(box, lines, options) {
  box.replaceChildren();
  const W = Math.max(320, Math.min(640, box.clientWidth || 640));  // drawn at its own size: text stays readable
  // An image has no parts for a screen reader; a drawing whose points can be chosen is a group of buttons.
  const role = options.choose ? "group" : "img";
  const root = svg("svg", { viewBox: `0 0 ${W} ${H}`, role, "aria-label": options.title }, box);
  const points = lines.flatMap((line) => line.points);
  if (!points.length) return svg("text", { x: LEFT, y: H / 2 }, root, "nothing was recorded for this choice");
  const fx = options.logx ? Math.log10 : (x) => x;
  const fy = options.logy ? (y) => Math.log10(Math.max(y, 1e-12)) : (y) => y;
  const xs = [...new Set(points.map((p) => p.x))].sort((a, b) => a - b);
  const ys = points.flatMap((p) => [p.y - p.half, p.y + p.half]).map(fy);
  let [x0, x1] = [fx(xs[0]), fx(xs[xs.length - 1])];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  const pad = Math.max(0.04 * (y1 - y0), 0.1);
  [y0, y1] = [y0 - pad, y1 + pad];
  const px = (x) => LEFT + ((fx(x) - x0) / (x1 - x0)) * (W - LEFT - RIGHT);
  const py = (y) => H - BOTTOM - ((Math.min(Math.max(fy(y), y0), y1) - y0) / (y1 - y0)) * (H - TOP - BOTTOM);
  for (const y of ticks(y0, y1, options.logy)) {
    svg("line", { x1: LEFT, x2: W - RIGHT, y1: py(y), y2: py(y), class: "grid" }, root);
    svg("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, root, short(y));
  }
  const step = Math.ceil(xs.length / (W / 70));
  xs.filter((_, i) => i % step === 0).forEach((x) => {
    svg("text", { x: px(x), y: H - BOTTOM + 18, "text-anchor": "middle" }, root, short(x));
  });
  svg("text", { x: (LEFT + W - RIGHT) / 2, y: H - 10, "text-anchor": "middle" }, root, options.xlabel);
  svg("text", { transform: `translate(14 ${(H - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, root, options.ylabel);
  lines.forEach((line) => {
    const path = line.points.slice().sort((a, b) => a.x - b.x);
    if (path.some((p) => p.half)) {
      const upper = path.map((p) => `${px(p.x)},${py(p.y + p.half)}`);
      const lower = path.slice().reverse().map((p) => `${px(p.x)},${py(p.y - p.half)}`);
      svg("polygon", { points: [...upper, ...lower].join(" "), fill: line.colour, opacity: 0.15 }, root);
    }
    svg("polyline", { points: path.map((p) => `${px(p.x)},${py(p.y)}`).join(" "), fill: "none", stroke: line.colour, "stroke-width": 2, "stroke-dasharray": line.dash || "" }, root);
    path.forEach((p) => {
      const dot = svg("circle", { cx: px(p.x), cy: py(p.y), r: path.length > 30 ? 1.5 : 4, fill: line.colour }, root);
      const said = `${line.name}, ${short(p.x)}: ${p.note || short(p.y)}`;
      svg("title", {}, dot, said);
      if (!options.choose) return;
      for (const [name, value] of Object.entries({ tabindex: 0, role: "button", "aria-label": said })) dot.setAttribute(name, value);
      dot.addEventListener("click", () => options.choose(said, p));
      dot.addEventListener("keydown", (e) => { if (e.key === "Enter") options.choose(said, p); });
    });
  });
}

// --- the records -------------------------------------------------------------------------------------------------

const AXES = { epochs: "epochs", batch: "batch size (images per update)", rate: "learning rate", threshold: "clipping threshold" };
const MEASURES = { accuracy: "accuracy", train: "training accuracy", clipped: "share of clipped units" };

function records(host) {
  const data = window.EXPLORER;
  const [controls, chart, legend, chosen] = ["controls", "chart", "legend", "chosen"].map((name) => host.querySelector(`.${name}`));
  const hidden = new Set();
  let fixed = {};
  const sweep = control(controls, "sweep", Object.keys(data.sweeps).map((name) => [name, name.replaceAll("_", " ")]), rebuild);
  const axis = control(controls, "x axis", [], filters);
  const measure = control(controls, "y axis", Object.entries(MEASURES), show);
  const rest = document.createElement("span");
  controls.appendChild(rest);

  function values(name, rows) {
    return [...new Set(rows.map((r) => r[name]).filter((v) => v !== null))].sort((a, b) => a - b);
  }
  // Learning rates are searched on validation images; what was chosen is judged on test images, over seeds.
  function split(along) {
    return along === "rate" && data.sweeps[sweep.value].some((r) => r.split === "validation") ? "validation" : "test";
  }
  function rows(along = axis.value) {
    return data.sweeps[sweep.value].filter((r) => r.split === split(along));
  }
  function rebuild() {
    axis.replaceChildren();
    for (const [name, text] of Object.entries(AXES)) {
      if (values(name, rows(name)).length > 1) axis.add(new Option(text, name));
    }
    filters();
  }
  function filters() {
    rest.replaceChildren();
    fixed = {};
    const variants = [...new Set(rows().map((r) => r.variant))];
    if (variants.length > 1) fixed.variant = control(rest, "variant", variants.map((v) => [v, v || "plain"]), show);
    for (const name of Object.keys(AXES)) {
      const found = values(name, rows());
      const searched = name === "rate" && split("rate") === "validation";
      if (name === axis.value || searched || found.length < 2) continue;
      fixed[name] = control(rest, AXES[name], found.map((v) => [v, short(v)]), show);
      fixed[name].value = String(found[Math.floor(found.length / 2)]);
    }
    show();
  }
  function choose(said, point) {
    chosen.textContent = `${said}. Records: `;
    point.lines.forEach((line, i) => {
      const place = document.createElement(data.files[sweep.value] ? "a" : "span");
      place.textContent = `line ${line}`;
      if (data.files[sweep.value]) place.href = `${data.files[sweep.value]}#L${line}`;
      chosen.append(i ? ", " : "", place);
    });
    chosen.append(` of ${sweep.value}.jsonl.`);
  }
  function show() {
    chosen.textContent = "";
    const kept = rows().filter((r) => Object.entries(fixed).every(([name, s]) => r[name] === null || String(r[name]) === s.value));
    const cells = new Map();
    for (const r of kept) {
      if (r[axis.value] === null || r[measure.value] == null) continue;
      const key = `${r.method}|${r[axis.value]}`;
      if (!cells.has(key)) cells.set(key, { method: r.method, x: r[axis.value], values: [], lines: [], rates: new Set() });
      cells.get(key).values.push(100 * r[measure.value]);
      cells.get(key).lines.push(r.line);
      cells.get(key).rates.add(r.rate);
    }
    const methods = [...new Set([...cells.values()].map((c) => c.method))];
    legend.replaceChildren();
    for (const method of methods) {
      const box = document.createElement("label"), tick = document.createElement("input");
      tick.type = "checkbox";
      tick.checked = !hidden.has(method);
      tick.addEventListener("change", () => { hidden[tick.checked ? "delete" : "add"](method); show(); });
      const swatch = document.createElement("span");
      swatch.style.background = data.look[method][1];
      swatch.className = "swatch";
      box.append(tick, swatch, ` ${data.look[method][0]}`);
      legend.appendChild(box);
    }
    const lines = methods.filter((m) => !hidden.has(m)).map((method) => ({
      name: data.look[method][0],
      colour: data.look[method][1],
      points: [...cells.values()].filter((c) => c.method === method).map((c) => {
        const { mean, half } = interval(c.values);
        const seeds = c.values.length > 1 ? ` ± ${half.toFixed(1)}, ${c.values.length} seeds` : ", one seed";
        return { x: c.x, y: mean, half, lines: c.lines, note: `${mean.toFixed(1)} %${seeds}, rate ${[...c.rates].map(short).join(" or ")}` };
      }),
    }));
    const shown = measure.value === "accuracy" ? `${split(axis.value)} accuracy` : MEASURES[measure.value];
    draw(chart, lines, { choose, logx: true, xlabel: AXES[axis.value], ylabel: `${shown} (%)`, title: `${shown} against ${AXES[axis.value]}, by method` });
  }
  rebuild();
  window.addEventListener("resize", show);
}

// --- the signal --------------------------------------------------------------------------------------------------

const ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  tanh: Math.tanh,
  identity: (x) => x,
};

// Mean and mean square of an activation of a normal number with a variance, by the trapezoid rule.
function moments(name, variance) {
  const f = ACTIVATIONS[name], std = Math.sqrt(variance), n = 4000;
  let mean = 0, square = 0;
  for (let i = 0; i <= n; i++) {
    const z = -10 + (20 * i) / n, y = f(std * z), weight = Math.exp(-0.5 * z * z);
    mean += weight * y;
    square += weight * y * y;
  }
  const all = (20 / n) / Math.sqrt(2 * Math.PI);
  return { mean: mean * all, square: square * all };
}

// Variance of the stream after each block, and at the end of each branch; the same recursion as book/front/explorers.py.
function signal({ blocks, stages, alpha, activation, gain, standardised, scaled }) {
  const unit = moments(activation, 1), factor = gain ? 1 / (unit.square - unit.mean ** 2) : 1;
  const layer = (variance) => {
    const m = moments(activation, variance);
    return factor * (standardised ? m.square - m.mean ** 2 : m.square);
  };
  const stream = [], branch = [];
  let variance = 1, expected = 1;
  for (let stage = 0; stage < stages; stage++) {
    for (let block = 0; block < blocks; block++) {
      const input = layer(variance / (scaled ? expected : 1));
      const out = layer(input);
      variance = (block === 0 ? input : variance) + alpha ** 2 * out;
      expected = (block === 0 ? 1 : expected) + alpha ** 2;
      stream.push(variance);
      branch.push(out);
    }
  }
  return { stream, branch };
}
window.predictedSignal = signal;

function propagation(host) {
  const controls = host.querySelector(".controls"), chart = host.querySelector(".chart");
  const options = (values) => values.map((v) => [v, v]);
  const yes = [["1", "yes"], ["0", "no"]];
  const blocks = control(controls, "blocks per stage", options([2, 3, 6, 12, 24, 48]), show);
  const alpha = control(controls, "α", options([0.1, 0.2, 0.5, 1]), show);
  const activation = control(controls, "activation", options(Object.keys(ACTIVATIONS)), show);
  const standardised = control(controls, "standardised weights", yes, show);
  const gain = control(controls, "activation gain", yes, show);
  const scaled = control(controls, "input divided by β", yes, show);
  blocks.value = 6;
  alpha.value = 0.2;
  function show() {
    const found = signal({
      blocks: Number(blocks.value), stages: 4, alpha: Number(alpha.value), activation: activation.value,
      gain: gain.value === "1", standardised: standardised.value === "1", scaled: scaled.value === "1",
    });
    const points = (values) => values.map((y, i) => ({ x: i + 1, y, half: 0 }));
    draw(chart, [
      { name: "stream", colour: window.EXPLORER.signal[0], points: points(found.stream) },
      { name: "end of the branch", colour: window.EXPLORER.signal[1], dash: "5 4", points: points(found.branch) },
    ], { logy: true, xlabel: "block", ylabel: "variance", title: "predicted variance of the stream and of the branches by block" });
  }
  show();
  window.addEventListener("resize", show);
}

document.addEventListener("DOMContentLoaded", () => {
  const made = { records, propagation };
  for (const host of document.querySelectorAll(".explorer")) {
    if (host.dataset.kind === "records" && !Object.keys(window.EXPLORER.sweeps).length) continue;
    host.querySelector(".fallback").hidden = true;
    made[host.dataset.kind](host);
  }
});
