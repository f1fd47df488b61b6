"use strict";
// The page's behaviour: tables that sort, panels that open, plots that are drawn when they are first seen.

const DATA = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const fingers = window.matchMedia("(pointer: coarse)");

// Tables. A cell's data-value is the number it is sorted by; empty (not finite) comes last in both directions.
function sortBy(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.children) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => {
    const cell = row.children[column];
    if (!("value" in cell.dataset)) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return ascending ? order : -order;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compare));
}
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// Plots. Colours are the same for an optimizer everywhere; black is drawn light on a dark page.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (name) => {
  const found = DATA.styles[name].colour;
  return found === "#000000" ? css("--ink") : found;
};
const translucent = (name) => colour(name) + (DATA.styles[name].learned ? "38" : "22");
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// Plotly's own ticks between powers of ten are labelled by their first digit alone: "5" for 0.5.
function oneTwoFive(range) {
  const values = [];
  for (let k = Math.floor(range[0]); k <= Math.ceil(range[1]); k++) values.push(...[1, 2, 5].map((digit) => digit * 10 ** k));
  return { tickvals: values, ticktext: values.map((value) => String(Number(value.toPrecision(1)))) };
}

function axis(title, type, range, revision) {
  // Labels at the powers of ten only, unless there are too few of them to read an axis by.
  const ticks = type === "log" && range[1] - range[0] < 2.5 ? oneTwoFive(range) : { minorloglabels: "none", nticks: 8 };
  return {
    ...ticks, title: { text: title, standoff: 8 }, type, range, gridcolor: css("--grid"), linecolor: css("--line"), zeroline: false,
    exponentformat: "power", automargin: true, uirevision: revision + type, tickfont: { size: 11 },
  };
}

function layout(div, names, x, y) {
  // The legend below the plot sets its columns by the longest name; the plot must not pay for its rows.
  const column = 60 + 7 * Math.max(0, ...names.map((name) => name.length));
  const rows = Math.ceil(names.length / Math.max(1, Math.floor((div.clientWidth - 70) / column)));
  return {
    xaxis: x, yaxis: y, height: 390 + 20 * rows, margin: { l: 56, r: 10, t: 30, b: 44 }, uirevision: "kept", hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), family: "system-ui, sans-serif" },
    legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 12 }, traceorder: "normal" },
    dragmode: fingers.matches ? false : "zoom", // a finger scrolls the page
  };
}

function vertical(at, text = "", label = {}) {
  return {
    type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper", line: { color: css("--faint"), width: 1, dash: "dash" },
    label: { text, textangle: 0, font: { size: 11, color: css("--faint") }, ...label },
  };
}

// A mean and its band, as two traces of one legend entry (and of one uid each, so that a hidden one stays hidden). The band is a polygon for each stretch where it is finite.
function meanAndBand(name, x, curve, keep, floor, hover, last_at = "step %{x}") {
  const { dash, learned } = DATA.styles[name];
  const shown = x.map((_, i) => i).filter((i) => keep(x[i]));
  const px = [], py = [];
  let stretch = [];
  const close = () => {
    if (stretch.length > 1) {
      const back = [...stretch].reverse();
      px.push(...stretch.map((i) => x[i]), ...back.map((i) => x[i]), null);
      py.push(...stretch.map((i) => curve.high[i]), ...back.map((i) => Math.max(curve.low[i], floor)), null);
    }
    stretch = [];
  };
  for (const i of shown) {
    if (curve.low[i] === null || curve.high[i] === null) close();
    else stretch.push(i);
  }
  close();
  const group = { legendgroup: name, legendrank: DATA.styles[name].rank, name: escaped(name) };
  const line = {
    ...group, uid: `${name} mean`, x: shown.map((i) => x[i]), y: shown.map((i) => (curve.mean[i] > floor ? curve.mean[i] : null)), mode: "lines",
    line: { color: colour(name), width: learned ? 3.2 : 1.5, dash }, hovertemplate: hover,
  };
  const finite = shown.filter((i) => curve.mean[i] !== null);
  const last = finite[finite.length - 1];
  const traces = [line];
  if (px.length) {
    traces.unshift({
      ...group, uid: `${name} band`, x: px, y: py, mode: "lines", fill: "toself", fillcolor: translucent(name), line: { width: 0 },
      hoverinfo: "skip", showlegend: false,
    });
  }
  if (last !== undefined && last !== shown[shown.length - 1]) {
    traces.push({
      ...group, uid: `${name} end`, x: [x[last]], y: [curve.mean[last]], mode: "markers", showlegend: false, cliponaxis: false,
      marker: { symbol: "x", size: 9, color: colour(name) }, hovertemplate: `a run diverges after ${last_at}<extra>%{fullData.name}</extra>`,
    });
  }
  return traces;
}

// Bands, if shown, lie below all lines, and learned optimizers' lines above all others.
function layered(traces, bands) {
  const height = (trace) => ("fill" in trace ? 0 : DATA.styles[trace.legendgroup].learned ? 2 : 1);
  return traces.filter((trace) => bands || height(trace) > 0).sort((a, b) => height(a) - height(b));
}

const draw = {
  curves(div, panel, { logLoss, logSteps, bands }) {
    const floor = logLoss ? 10 ** (panel.log[0] - 3) : -Infinity;
    const keep = (step) => !logSteps || step > 0;
    const hover = "step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>";
    const traces = layered(panel.curves.flatMap((c) => meanAndBand(c.name, panel.steps, c, keep, floor, hover)), bands);
    const y = axis(panel.loss, logLoss ? "log" : "linear", logLoss ? panel.log : panel.linear, "y");
    const ends = [panel.steps[0], panel.steps[panel.steps.length - 1]];
    const x = axis("step", logSteps ? "log" : "linear", logSteps ? ends.map((s) => Math.log10(Math.max(s, 1))) : ends, "x");
    const shapes = panel.horizon < ends[1] ? [vertical(panel.horizon, "horizon", { textposition: "end", xanchor: "right", yanchor: "top" })] : [];
    return [traces, { ...layout(div, panel.curves.map((c) => c.name), x, y), shapes }];
  },
  // The same curves by the clock: a step of each takes its own time.
  seconds(div, panel, { logLoss, logSteps, bands }) {
    const { step, range, log_range, horizon, best } = panel.seconds;
    const floor = logLoss ? 10 ** (panel.log[0] - 3) : -Infinity;
    const keep = (time) => !logSteps || time > 0;
    const hover = "%{x:.3g} s: %{y:.4g}<extra>%{fullData.name}</extra>";
    const timed = panel.curves.filter((c) => c.name in step);
    const times = (name) => panel.steps.map((s) => s * step[name]);
    const traces = layered(timed.flatMap((c) => meanAndBand(c.name, times(c.name), c, keep, floor, hover, "%{x:.3g} s")), bands);
    const y = axis(panel.loss, logLoss ? "log" : "linear", logLoss ? panel.log : panel.linear, "y");
    const x = axis("seconds", logSteps ? "log" : "linear", logSteps ? log_range : range, "x");
    const label = { textposition: "end", xanchor: "left", yanchor: "top" };
    const shapes = horizon === null ? [] : [vertical(horizon, `${escaped(best)} at the horizon`, label)];
    return [traces, { ...layout(div, timed.map((c) => c.name), x, y), shapes }];
  },
  profile(div, profile) {
    const hover = "%{y:.0%} of runs within %{x:.3g} ×<extra>%{fullData.name}</extra>";
    const traces = layered(profile.curves.flatMap((c) => meanAndBand(c.name, profile.x, c, () => true, -Infinity, hover)), true);
    const x = axis("loss / mean loss of the best baseline", "log", profile.range, "x");
    const y = { ...axis("share of runs", "linear", [-0.02, 1.02], "y"), tickformat: ".0%" };
    return [traces, { ...layout(div, profile.curves.map((c) => c.name), x, y), shapes: [vertical(1)] }];
  },
  tuning(div, panel) {
    const symbols = ["circle", "square", "diamond"];
    const traces = [];
    for (const { name, schedule, rate, loss, hover, chosen } of panel.tuning.trials) {
      const group = { legendgroup: name, legendrank: DATA.styles[name].rank, name: escaped(name), mode: "markers", hovertemplate: "%{customdata}<extra>%{fullData.name}</extra>" };
      const at = rate.map((_, i) => i);
      const order = at.slice().sort((a, b) => rate[a] - rate[b]);
      const above = (i) => loss[i] === null || loss[i] > panel.tuning.top;
      const height = (i) => (above(i) ? panel.tuning.top : loss[i]);
      const { dash } = DATA.styles[name];
      traces.push({
        ...group, x: order.map((i) => rate[i]), y: order.map(height), customdata: order.map((i) => hover[i]),
        mode: panel.tuning.lines ? "lines+markers" : "markers", cliponaxis: false, line: { color: colour(name), width: 1.5, dash },
        marker: { color: colour(name), size: 7, symbol: order.map((i) => (above(i) ? "triangle-up-open" : symbols[schedule[i]])) },
      });
      if (chosen !== null) {
        traces.push({
          ...group, x: [rate[chosen]], y: [height(chosen)], customdata: ["chosen: " + hover[chosen]], showlegend: false, cliponaxis: false,
          marker: { color: colour(name), size: 15, symbol: "circle-open", line: { width: 2.5 } },
        });
      }
    }
    const { log, range } = panel.tuning;
    const names = panel.tuning.trials.map((t) => t.name);
    const x = axis("learning rate", "log", panel.tuning.rates, "x");
    return [traces, layout(div, names, x, axis("mean final loss, tuning tasks", log ? "log" : "linear", range, "y"))];
  },
};

// plotly.js lies in the page compressed; it is unpacked once, by the first plot.
let plotly = null;
function unpacked() {
  plotly ??= (async () => {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    return window.Plotly;
  })();
  return plotly;
}

async function render(div) {
  let Plotly;
  try {
    Plotly = await unpacked();
  } catch {
    div.classList.add("failed");
    div.textContent = "This browser is too old for interactive plots; the folder figures/ beside this page holds them as images.";
    return;
  }
  const pressed = (name) => div.parentNode.querySelector(`[data-axis="${name}"]`)?.getAttribute("aria-pressed") === "true";
  const kind = div.dataset.plot;
  const source = kind === "profile" ? DATA.profile : DATA.panels[Number(div.dataset.panel)];
  const [traces, shape] = draw[kind](div, source, { logLoss: pressed("loss"), logSteps: pressed("steps"), bands: pressed("bands") });
  const filename = `${kind}-${div.dataset.slug ?? "all"}`;
  await Plotly.react(div, traces, shape, {
    responsive: true, displaylogo: false, toImageButtonOptions: { format: "svg", filename },
    displayModeBar: fingers.matches ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  });
  div.dataset.drawn = "true";
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      seen.unobserve(target);
      render(target);
    }
  }
}, { rootMargin: "400px" });
const plots = [...document.querySelectorAll(".plot")];
plots.forEach((div) => seen.observe(div)); // one in a closed panel is seen when the panel opens
const redraw = () => plots.filter((div) => div.dataset.drawn).forEach(render);
dark.addEventListener("change", redraw);

for (const button of document.querySelectorAll(".controls [data-axis]")) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
    button.closest(".figure").querySelectorAll(".plot").forEach(render);
  });
}

// Panels: a link to one opens it.
function openLinked() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.matches("details")) target.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", openLinked);
for (const link of document.querySelectorAll("a[href^='#']")) {
  link.addEventListener("click", () => setTimeout(openLinked)); // also if the address stays the same
}
openLinked();
const panels = [...document.querySelectorAll("details.panel")];
const all = document.getElementById("open-all");
all?.addEventListener("click", () => {
  const open = !panels.every((panel) => panel.open);
  panels.forEach((panel) => (panel.open = open));
});
window.addEventListener("beforeprint", () => panels.forEach((panel) => (panel.open = true)));
