"use strict";
// What the charts show: the figures of the last minutes, one point for each second, and the lag by process.

const SECONDS = 300; // that the charts show

let past = {points: [], lag: {}};

function takePoint({point, lag}) {
  past.points.push(point);
  for (const [id, tail] of Object.entries(lag)) {
    const known = past.lag[id] || [];
    past.lag[id] = [...known.filter(([second]) => !tail.length || second < tail[0][0]), ...tail];
  }
  const from = point[0] - SECONDS - 5;
  past.points = past.points.filter(([time]) => time > from);
  for (const id of Object.keys(past.lag)) past.lag[id] = past.lag[id].filter(([second]) => second > from);
}

// The stream may go on in another process, which has looked at the same things, but not for as long.
function takeHistory(told) {
  const first = told.points.length ? told.points[0][0] : Infinity;
  const last = told.points.length ? told.points[told.points.length - 1][0] : -Infinity;
  const known = past.points.filter(([time]) => time < first - 0.5 || time > last);
  past = {points: [...known, ...told.points].sort((one, other) => one[0] - other[0]), lag: told.lag};
}

function longest(lines) {
  const found = new Map();
  for (const line of lines) for (const [second, lag] of line) found.set(second, Math.max(lag, found.get(second) || 0));
  return [...found].sort((one, other) => one[0] - other[0]);
}
