"use strict";
// Small charts in SVG: lines over time, drawn anew with each point.

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// The least of 1, 2, 5 times a power of ten that is not below.
function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5, 10]) if (step * power >= value * 0.999) return step * power;
  return 10 * power;
}

// Draw lines into an <svg>.
//   series: [{points: [[x, y or null]...], label, area: bool}]; limit: a level that is marked
//   from, to: the ends of the x axis; least: what the y axis reaches at least; unit: y -> text; ends: texts below
function drawChart(node, {series, from, to, least, unit, ends, limit, gap = Infinity, dots = false}) {
  const width = node.clientWidth || 260, height = node.clientHeight || 108;
  const keyed = series.filter((one) => one.label);
  const top = keyed.length ? 20 : 8, bottom = height - 17, left = 46, right = width - 4;
  let most = Math.max(least, limit || 0);
  for (const one of series) for (const [, y] of one.points) if (y !== null && y > most) most = y;
  const ceiling = niceCeiling(most);
  const px = (x) => left + ((x - from) / (to - from || 1)) * (right - left);
  const py = (y) => bottom - (y / ceiling) * (bottom - top);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const y = py(ceiling * share);
    parts.push(svg("line", {class: "grid", x1: left, x2: right, y1: y, y2: y}));
    parts.push(svg("text", {x: left - 6, y: y + 4, "text-anchor": "end"}, unit(ceiling * share)));
  }
  if (limit) parts.push(svg("line", {class: "limit", x1: left, x2: right, y1: py(limit), y2: py(limit)}));
  series.forEach((one, at) => {
    for (const run of runsOf(one.points, from, gap)) {
      const path = run.map(([x, y], index) => `${index ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("");
      if (one.area) {
        parts.push(svg("path", {class: "area", d: `${path}L${px(run[run.length - 1][0]).toFixed(1)} ${bottom}L${px(run[0][0]).toFixed(1)} ${bottom}Z`}));
      }
      parts.push(svg("path", {class: `line c${at % 4} d${at % 4}`, d: run.length > 1 ? path : `${path}h1`}));
      if (dots) for (const [x, y] of run) parts.push(svg("circle", {class: `dotted f${at % 4}`, cx: px(x), cy: py(y), r: 3.5}));
    }
  });
  parts.push(svg("text", {x: left, y: height - 3}, ends[0]));
  parts.push(svg("text", {x: right, y: height - 3, "text-anchor": "end"}, ends[1]));
  let x = 0;
  keyed.forEach((one) => {
    const at = series.indexOf(one);
    parts.push(svg("path", {class: `line c${at % 4} d${at % 4}`, d: `M${x + 1} 7h16`}));
    parts.push(svg("text", {class: "key", x: x + 21, y: 11}, one.label));
    x += 33 + 6 * one.label.length;
  });
  node.setAttribute("viewBox", `0 0 ${width} ${height}`);
  node.replaceChildren(...parts);
}

function runsOf(points, from, gap) {
  const runs = [];
  let run = [], last = null;
  for (const [x, y] of points) {
    if (x < from) continue;
    if (y === null || (last !== null && x - last > gap)) {
      if (run.length) runs.push(run);
      run = [];
    }
    if (y !== null) run.push([x, y]);
    last = x;
  }
  if (run.length) runs.push(run);
  return runs;
}
