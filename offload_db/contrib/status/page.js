"use strict";
// Shows what the server sends. All text is set as text: nothing that comes from the server becomes markup.

const LATE = 3.5; // seconds without news after which that is said
const POLL = 5; // seconds between two questions where there is no stream
const MODES = ["offload", "observe", "block"];
const TOKEN = document.querySelector('meta[name="offload-db-token"]').content;

let parts = {};
let heard = performance.now();
let paused = false;
let source = null;
let polls = false; // as there is no stream to be had
let refused = 0; // the status that the server answers instead

// State of things

// The worst first.
const LEVELS = {bad: ["bad", "Trouble"], warn: ["warn", "Look"], ok: ["ok", "Fine"], note: ["info", "Note"]};
let loudest = "";

function showVerdicts() {
  const list = parts.now ? [...parts.now.verdicts] : [];
  const seconds = (performance.now() - heard) / 1000;
  const lost = seconds > (polls ? LATE + POLL : LATE) && !paused;
  if (lost) {
    const why = refused ? `the server answers ${refused}; load the page again` : "the event loop of the process that serves this page stands still, or it can't be reached";
    list.unshift({level: "bad", text: `No news for ${seconds.toFixed(0)} s: ${why}. Below is what was known then.`});
  } else if (parts.now && !list.some((one) => one.level !== "note")) {
    list.unshift({level: "ok", text: "The event loop is free, and nobody waits for a connection."});
  }
  const order = Object.keys(LEVELS);
  list.sort((one, other) => order.indexOf(one.level) - order.indexOf(other.level));
  const nodes = at("verdict-list").children;
  while (nodes.length > list.length) nodes[nodes.length - 1].remove();
  list.forEach(({level, text}, index) => {
    if (!nodes[index]) at("verdict-list").append(el("li", {}, el("b"), el("span")));
    const [style, word] = LEVELS[level];
    nodes[index].className = style;
    say(nodes[index].firstChild, word);
    say(nodes[index].lastChild, text);
  });
  // Read out when it begins, not with each number that changes.
  const now = list.length ? list[0].level + list[0].text.replace(/[\d.]+/g, "") : "";
  if (now !== loudest) say(at("announce"), list.length ? `${LEVELS[list[0].level][1]}: ${list[0].text}` : "");
  loudest = now;
  document.querySelector("main").classList.toggle("stale", lost);
  const state = paused ? "paused" : lost ? "lost" : parts.now ? "live" : "waiting";
  at("link").dataset.state = state;
  say(at("link-text"), {paused: "paused", lost: "no news", live: polls ? `live, every ${POLL} s` : "live, each second", waiting: "connecting"}[state]);
  const mark = {bad: "✗ ", warn: "! ", note: "", ok: ""}[list.length ? list[0].level : "ok"];
  if (document.title !== `${mark}offload_db`) document.title = `${mark}offload_db`;
}

// Tiles

function big(id, value, unit, level = "") {
  const node = at(id);
  if (!node.firstElementChild) node.replaceChildren(el("span"), " ", el("small"));
  say(node.firstElementChild, value);
  say(node.lastElementChild, unit);
  node.dataset.level = level;
}

function showTiles() {
  const {totals, processes, time} = parts.now;
  const lag = totals.lag;
  const level = (seconds) => (seconds >= 0.5 ? "bad" : seconds >= 0.1 ? "warn" : "");
  big("lag-now", lag ? ms(lag.worst) : "–", "", lag ? level(lag.worst) : "");
  say(at("lag-more"), lag ? `longest of the last 10 s; p99 of the minute ${ms(lag.p99)}` : "not sampled");
  const full = totals.size > 0 && totals.in_use >= totals.size;
  big("pool-now", count(totals.in_use), `of ${count(totals.size)}`, full ? (totals.waiting ? "bad" : "warn") : "");
  say(at("pool-more"), `${count(totals.idle)} idle, ${count(totals.waiting)} waiting; queue wait p95 ${ms(totals.queue_wait.p95)}`);
  big("rate-now", rate(totals.statements_per_second), "per second");
  say(at("rate-more"), `${count(totals.ever.statements)} since the start`);
  big("time-now", ms(totals.statement_time.p50), "p50");
  say(at("time-more"), `p95 ${ms(totals.statement_time.p95)}, of the last minute`);

  const frame = {from: time - SECONDS, to: time, ends: ["5 min ago", "now"], gap: 8};
  const column = (index) => past.points.map((point) => [point[0], point[index]]);
  const live = processes.filter((one) => one.state === "live" && past.lag[one.id]);
  const several = live.length > 1 && live.length <= 4;
  const lags = several
    ? live.map((one) => ({points: past.lag[one.id], label: `pid ${one.pid}`}))
    : [{points: longest(live.map((one) => past.lag[one.id])), area: true}];
  drawChart(at("lag-chart"), {...frame, series: lags, least: 0.02, unit: axisMs});
  drawChart(at("pool-chart"), {
    ...frame, series: [{points: column(4), label: "in use", area: true}, {points: column(6), label: "waiting"}],
    limit: totals.size, least: 1, unit: (value) => `${+value.toFixed(1)}`,
  });
  drawChart(at("rate-chart"), {...frame, series: [{points: column(1), area: true}], least: 10, unit: (value) => `${+value.toFixed(1)}/s`});
  drawChart(at("time-chart"), {
    ...frame, series: [{points: column(2), label: "p50"}, {points: column(3), label: "p95"}], least: 0.01, unit: axisMs,
  });
}

function showMinute() {
  const minute = parts.now.totals.minute;
  const items = [
    ["statements killed", minute.kills], ["kills that failed", minute.kills_failed], ["timeouts", minute.timeouts],
    ["calls cancelled", minute.cancelled], ["calls that blocked the loop", minute.blocking_calls],
    ["trips to a thread", minute.hops],
    ...Object.entries(minute.discards).map(([reason, number]) => [`discarded: ${reason.replace(/_/g, " ")}`, number]),
  ];
  sync(at("minute"), items, (item) => item[0], () => el("div", {}, el("dt"), el("dd")), (node, [name, number]) => {
    say(node.firstChild, name);
    say(node.lastChild, count(number));
    node.lastChild.className = number ? "" : "zero";
  });
}

// Routes

function showRoutes() {
  const routes = parts.routes || [], may = Boolean(parts.may && parts.may.change);
  const table = at("routes-table");
  table.hidden = !routes.length;
  at("other").hidden = !may;
  const own = may ? "" : " This page is read-only.";
  say(at("routes-more"), routes.length ? `Figures of the last minute, below them since the start.${parts.routes_more ? ` ${count(parts.routes_more)} further routes are not shown.` : ""}${own}` : `No target is set, and no route is watched.${own}`);
  sync(table, routes, (route) => route.target, makeRoute, (body, route) => updateRoute(body, route, may));
}

function makeRoute(route) {
  const controls = el("form", {class: "set", hidden: true, "aria-label": `Set ${route.target}`},
    el("select", {name: "mode", "aria-label": "Mode"}, ...MODES.map((mode) => el("option", {value: mode}, mode))),
    el("input", {name: "share", type: "number", min: "0", max: "100", step: "any", required: true, "aria-label": "Share in percent"}),
    "%", el("button", {type: "submit"}, "Set"),
    el("button", {type: "button", name: "clear", title: "Take away what is set for this target"}, "Clear"));
  controls.addEventListener("input", () => { controls.dataset.edited = "yes"; });
  controls.addEventListener("submit", (event) => {
    event.preventDefault();
    change({target: route.target, mode: controls.mode.value, share: Number(controls.share.value) / 100}, controls);
  });
  controls.clear.addEventListener("click", () => change({target: route.target, mode: null}, controls));
  return el("tbody", {}, el("tr", {}, el("th", {scope: "rowgroup", class: "target"}, breakable(route.target), el("small"), el("p", {class: "tell", hidden: true})),
    el("td", {"data-name": "Set to"}, el("span"), el("small"), controls)));
}

function updateRoute(body, route, may) {
  const first = body.rows[0], [target, set] = first.cells;
  const arms = route.arms.length ? route.arms : [null];
  const told = [];
  if (route.reverted) told.push(`Put back by the guard: ${route.reverted}`);
  if (route.differs) told.push(`It differs: ${route.processes.map((one) => `pid ${one.pid} ${one.mode} ${percent(one.share)}`).join(", ")}`);
  say(target.children[2], told.join(". "));
  target.children[2].hidden = !told.length;
  say(set.children[0], `${route.mode} ${percent(route.share)}`);
  const who = {call: "set by a call or here", file: "from the file", environment: "from the environment", default: "nothing is set"}[route.source] || route.source;
  say(set.children[1], route.rule && route.rule !== route.target ? `${who}, for ${route.rule}` : who);
  const controls = set.children[2];
  controls.hidden = !may;
  controls.clear.hidden = route.rule !== route.target;
  if (!controls.dataset.edited) {
    controls.mode.value = route.mode;
    controls.share.value = +(route.share * 100).toFixed(3);
  }
  target.rowSpan = set.rowSpan = arms.length;
  while (body.rows.length > arms.length) body.rows[body.rows.length - 1].remove();
  while (body.rows.length < arms.length) body.append(el("tr"));
  arms.forEach((arm, index) => {
    const row = body.rows[index], skip = index ? 0 : 2;
    while (row.cells.length < skip + 6) row.append(el("td", {class: row.cells.length - skip ? "n" : "way"}));
    const [way, calls, errors, p50, p95, loop] = [...row.cells].slice(skip);
    ["Way", "Calls", "Errors", "p50", "p95", "Loop held per call"].forEach((name, cell) => { row.cells[skip + cell].dataset.name = name; });
    if (!arm) {
      say(way, "no calls yet");
      return;
    }
    if (!way.firstElementChild) way.replaceChildren(el("i", {"aria-hidden": "true"}), el("span"));
    way.firstElementChild.className = arm.mode;
    say(way.lastElementChild, {offload: "offloaded", observe: "as before, observed", block: "as before"}[arm.mode] || arm.mode);
    const worse = arms.some((other) => other !== arm && arm.minute.errors > 2 && (arm.minute.error_share || 0) > 1.5 * (other.minute.error_share || 0) + 0.01);
    two(calls, count(arm.minute.calls), count(arm.ever.calls));
    two(errors, `${worse ? "▲ " : ""}${percent(arm.minute.error_share)}`, percent(arm.ever.error_share));
    errors.title = Object.entries(arm.ever.errors_by).map(([name, number]) => `${name}: ${count(number)}`).join("\n");
    errors.classList.toggle("worse", worse);
    two(p50, ms(arm.minute.p50), ms(arm.ever.p50));
    two(p95, ms(arm.minute.p95), ms(arm.ever.p95));
    two(loop, ms(arm.minute.loop_time_per_call), ms(arm.ever.loop_time_per_call));
  });
}

function two(cell, now, ever) {
  if (!cell.firstElementChild) cell.replaceChildren(el("span"), el("small"));
  say(cell.firstElementChild, now);
  say(cell.lastElementChild, ever);
}

async function change(what, form) {
  const done = at("done");
  let text = "", good = false;
  try {
    const response = await fetch("rollout", {
      method: "POST", credentials: "same-origin", body: JSON.stringify(what),
      headers: {"content-type": "application/json", "x-offload-db-token": TOKEN},
    });
    const said = await response.json();
    good = response.ok;
    text = good ? `Done: ${said.done}${said.others ? `; ${said.others}` : ""}.` : `Not done: ${said.detail}`;
  } catch {
    text = "Not done: the server can't be reached.";
  }
  if (good) delete form.dataset.edited;
  done.className = `done ${good ? "ok" : "bad"}`;
  done.hidden = false;
  say(done, text);
}

at("other").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  change({target: form.target.value.trim(), mode: form.mode.value, share: Number(form.share.value) / 100}, form);
});

// What blocks

function showBlocking() {
  const {units, more, summary} = parts.blocking;
  at("blocking-table").hidden = !units.length;
  say(at("blocking-more"), units.length
    ? `The loop stood still for ${ms(summary.seconds_lost)} in ${count(summary.blocking_calls)} calls since the start; ${count(summary.hops)} trips to a thread left it free.${more ? ` ${count(more)} further handlers are not shown.` : ""}`
    : "No driver call has blocked an event loop since the start.");
  sync(at("blocking-rows"), units, (unit) => unit.key,
    () => el("tr", {}, ...["Time lost", "Last minute", "Calls", "Longest"].map((name) => el("td", {class: "n", "data-name": name})), el("td")),
    (row, unit) => {
      const [lost, minute, calls, max, what] = row.cells;
      lost.replaceChildren(ms(unit.seconds), bar(unit.share, false));
      say(minute, ms(unit.minute));
      say(calls, count(unit.count));
      say(max, ms(unit.max_seconds));
      const shape = JSON.stringify([unit.route, unit.place, unit.remedy, unit.rules, unit.more, unit.sites.map((site) => [site.place, site.statement])]);
      if (what.dataset.shape !== shape) {
        const open = Boolean(what.querySelector("details[open]"));
        const [head, ...rest] = unit.sites.map(makeSite);
        const further = rest.length + unit.more;
        what.replaceChildren(
          el("div", {class: "handler"}, unit.route || unit.function, " ", el("span", {}, unit.route ? `${unit.function}, ` : "", link(unit), unit.rules.length ? ` · ${unit.rules.join(", ")}` : "")),
          el("div", {class: "remedy"}, `→ ${unit.remedy}`), head || "",
          further ? el("details", {open}, el("summary", {}, `${further} further ${further === 1 ? "line" : "lines"}`), ...rest, unit.more ? el("p", {class: "small"}, `and ${unit.more} more`) : null) : "");
        what.dataset.shape = shape;
      }
      const seconds = what.querySelectorAll(".site b");
      unit.sites.forEach((site, index) => say(seconds[index], `${ms(site.seconds)} in ${count(site.count)}`));
    });
}

function makeSite(site) {
  return el("div", {class: "site"}, link(site), ` ${site.call}: `, el("b"), site.statement ? el("code", {}, site.statement) : null);
}

// Processes, pools and lanes

function showPools() {
  const rows = [];
  for (const one of parts.now.processes) {
    const pools = one.pools.length ? one.pools : [null];
    pools.forEach((pool, index) => {
      rows.push({key: `${one.id} ${index}`, process: one, pool, first: index === 0});
      if (pool && one.state !== "ended") for (const lane of pool.lanes) rows.push({key: `${one.id} ${index} ${lane.name}`, process: one, pool, lane});
    });
  }
  const names = ["", "", "In use", "Idle", "Waiting", "Queue wait p95", "Statements", "Time p95", "Loop lag"];
  sync(at("pool-rows"), rows, (row) => row.key, () => el("tr", {}, ...names.map((name, index) => {
    const cell = el("td", {class: index > 2 ? "n" : ""});
    if (name) cell.dataset.name = name;
    return cell;
  })), (node, row) => {
    const cells = node.cells, {process: one, pool, lane} = row;
    node.className = one.state === "live" ? "" : "gone";
    const state = one.mine ? "answers now" : {live: `told ${one.age.toFixed(0)} s ago`, silent: `silent for ${one.age.toFixed(0)} s`, ended: `ended ${one.age.toFixed(0)} s ago`}[one.state];
    if (row.first) two(cells[0], `pid ${one.pid}`, `${one.host}, ${state}`);
    cells[1].className = lane ? "lane" : "";
    say(cells[1], lane ? `lane ${lane.name}` : pool ? pool.name : "no pool");
    const from = lane || pool;
    if (from) {
      const limit = lane ? lane.limit : pool.size;
      cells[2].replaceChildren(`${count(from.in_use)} of ${count(limit)}`, bar(from.in_use / limit, from.in_use >= limit));
      say(cells[4], count(from.waiting));
      cells[4].classList.toggle("worse", from.waiting > 0);
    }
    if (pool && !lane) {
      say(cells[3], count(pool.idle));
      say(cells[5], ms(pool.queue_wait.p95));
      say(cells[6], `${rate(pool.statements_per_second)}/s`);
      say(cells[7], ms(pool.statement_time.p95));
    }
    if (row.first) {
      say(cells[8], one.lag ? ms(one.lag.worst) : "not sampled");
      cells[8].classList.toggle("worse", Boolean(one.lag && one.lag.worst >= 0.1));
    }
  });
}

// Migration

function showMigration() {
  const audits = parts.burn_down || [];
  const newest = audits[audits.length - 1];
  say(at("migration-more"), newest
    ? `${count(newest.handlers_blocking)} of ${count(newest.handlers)} handlers block, ${count(newest.handlers_migrated)} are migrated, says the audit of ${day(newest.time)}.`
    : "No audit: give StatusPage(audit=…) the files that `offload-db audit --format json` printed over time.");
  at("migration-table").hidden = !newest;
  const chart = at("migration-chart");
  chart.toggleAttribute("hidden", audits.length < 2);
  if (audits.length > 1) {
    const first = audits[0];
    drawChart(chart, {
      series: [
        {points: audits.map((one) => [one.time, one.handlers_blocking]), label: "handlers that block", area: true},
        {points: audits.map((one) => [one.time, one.handlers_migrated]), label: "migrated"},
      ],
      from: first.time, to: newest.time, least: 4, unit: (value) => `${+value.toFixed(1)}`, ends: [day(first.time), day(newest.time)], dots: audits.length < 30,
    });
  }
  sync(at("migration-rows"), [...audits].reverse().slice(0, 8), (one) => `${one.file} ${one.time}`,
    () => el("tr", {}, el("th", {scope: "row"}), el("td", {class: "n"}), el("td", {class: "n"}), el("td", {class: "n"})),
    (row, one) => {
      two(row.cells[0], day(one.time), one.file);
      say(row.cells[1], count(one.handlers_blocking));
      say(row.cells[2], count(one.handlers_migrated));
      say(row.cells[3], count(one.open));
    });
}

function showProblems() {
  const problems = parts.problems || [];
  at("problems").hidden = !problems.length;
  sync(at("problem-list"), problems, (text) => text, (text) => el("li", {}, text), () => {});
}

// News

function show(names) {
  showVerdicts();
  if (!parts.now || paused) return;
  if (names.has("now")) {
    showTiles();
    showMinute();
    showPools();
  }
  if (names.has("routes") || names.has("may")) showRoutes();
  if (names.has("blocking")) showBlocking();
  if (names.has("burn_down")) showMigration();
  if (names.has("problems")) showProblems();
}

function listen() {
  source = new EventSource("events");
  source.addEventListener("open", () => { polls = false; });
  source.addEventListener("all", (event) => take(JSON.parse(event.data)));
  source.addEventListener("some", (event) => take(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    // The stream ends now and then, and the browser begins it anew; where it has given up, others may fill the places.
    if (source.readyState === EventSource.CLOSED) poll();
  });
}

async function poll() {
  polls = true;
  try {
    const response = await fetch("state.json", {credentials: "same-origin"});
    refused = response.ok ? 0 : response.status;
    if (response.ok) take(await response.json());
  } catch {
    refused = 0; // it can't be reached, which is told already
  }
  setTimeout(listen, 1000 * POLL);
}

function take(news) {
  heard = performance.now();
  refused = 0;
  if (news.points) takeHistory(news.points);
  if (news.point) takePoint(news.point);
  parts = {...parts, ...news};
  show(new Set(Object.keys(news)));
}

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  say(at("pause"), paused ? "Resume" : "Pause");
  show(new Set(Object.keys(parts)));
});
new ResizeObserver(() => { if (parts.now) show(new Set(["now", "burn_down"])); }).observe(document.querySelector("main"));
setInterval(showVerdicts, 1000);
listen();
