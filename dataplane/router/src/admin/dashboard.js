// The dashboard asks the same API as everybody else, once a second while it is looked at.
"use strict";

const EVERY_MS = 1000;
const POINTS = 120;
const ROWS = 60;
const CLASSES = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

const $ = (id) => document.getElementById(id);

/** An element with text or children; text is never markup. */
function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "width") element.style.width = value;
    else if (value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const number = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");

function rate(n) {
  if (n === undefined) return "–";
  return n === 0 ? "0" : n < 10 ? n.toFixed(1) : number(Math.round(n));
}

function time(us) {
  if (us === undefined || us === null) return "–";
  if (us < 1000) return `${us} µs`;
  if (us < 1e6) return `${(us / 1000).toPrecision(us < 1e5 ? 2 : 3)} ms`;
  return `${(us / 1e6).toPrecision(3)} s`;
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit++; }
  return `${unit ? n.toPrecision(3) : n} ${units[unit]}`;
}

function since(seconds) {
  const [d, h, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d) return `${d} d ${h} h`;
  if (h) return `${h} h ${m} min`;
  return m ? `${m} min` : `${seconds} s`;
}

function answersBar(answers, thin) {
  const total = Object.values(answers).reduce((a, b) => a + b, 0);
  const text = CLASSES.filter((c) => answers[c]).map((c) => `${c} ${number(answers[c])}`).join(", ") || "no answers yet";
  const bar = el("div", { class: thin ? "bar thin" : "bar", title: text, role: "img", "aria-label": text });
  for (const c of CLASSES) {
    if (answers[c]) bar.append(el("i", { class: `c${c}`, width: `${(100 * answers[c]) / total}%` }));
  }
  return bar;
}

function line(id, points) {
  const svg = $(id);
  const top = Math.max(...points, 1e-9);
  const step = 240 / (POINTS - 1);
  const left = 240 - (points.length - 1) * step;
  const at = (value, i) => `${(left + i * step).toFixed(1)},${(42 - (38 * value) / top).toFixed(1)}`;
  const path = points.length > 1 ? "M" + points.map(at).join("L") : "";
  const draw = (name, d) => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("d", d);
    shape.setAttribute("class", name);
    return shape;
  };
  svg.replaceChildren(draw("area", path && `${path}L240,44L${left.toFixed(1)},44Z`), draw("", path));
}

const trail = { rate: [], p99: [] };
let last = null;
let table = null;
let filter = "";

async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.what || answer.statusText), { body });
  return body;
}

function showStatus(status, now) {
  const t = status.totals;
  if (last && now > last.now && t.requests >= last.requests) {
    const perSecond = (1000 * (t.requests - last.requests)) / (now - last.now);
    $("rate").textContent = rate(perSecond);
    trail.rate = [...trail.rate, perSecond].slice(-POINTS);
    trail.p99 = [...trail.p99, t.recent.p99_us || 0].slice(-POINTS);
    line("rate-line", trail.rate);
    line("p99-line", trail.p99);
    showCores(status.cores, last.cores, now - last.now);
  } else {
    showCores(status.cores, status.cores, 1);
  }
  last = { now, requests: t.requests, cores: status.cores };

  $("p50").textContent = time(t.recent.p50_us);
  $("p99").textContent = time(t.recent.p99_us);
  $("p999").textContent = time(t.recent.p999_us);
  $("window").textContent = `last ${Math.max(1, Math.round(t.window_seconds))} s`;

  const phase = $("phase");
  const good = status.phase === "serving" && status.ready;
  phase.textContent = good ? "serving" : status.phase === "serving" ? "starting" : status.phase;
  phase.className = `pill ${good ? "good" : "warn"}`;
  $("facts").textContent =
    `${status.engine} · ${status.cores.length} core${status.cores.length === 1 ? "" : "s"} · ` +
    `table version ${status.table.version} · up ${since(status.uptime_seconds)} · ` +
    status.listeners.slice(0, 4).map((l) => `${l.kind} ${l.address}`).join(" · ") +
    (status.listeners.length > 4 ? ` · ${status.listeners.length - 4} more` : "");
  document.title = `${$("rate").textContent} req/s – router`;

  $("answers").replaceWith(Object.assign(answersBar(t.answers, false), { id: "answers" }));
  const legend = CLASSES.filter((c) => t.answers[c]).map((c) => el("span", {}, el("i", { class: `c${c}` }), `${c} ${number(t.answers[c])}`));
  const failures = Object.entries(t.failures).filter(([, n]) => n).sort((a, b) => b[1] - a[1]).slice(0, 4);
  if (failures.length) legend.push(el("br"), ...failures.map(([code, n]) => el("span", {}, `${code} ${number(n)}`)));
  $("answers-text").replaceChildren(...(legend.length ? legend : ["none yet"]));

  const rows = [
    ["clients open", number(t.connections_open)],
    ["instances open", `${number(t.upstream_open)} (${number(t.upstream_idle)} idle)`],
    ["requests in flight", number(t.in_flight)],
    ["bytes in", bytes(t.bytes_in)],
    ["bytes out", bytes(t.bytes_out)],
  ];
  if (t.tunnels_open) rows.push(["tunnels", number(t.tunnels_open)]);
  $("connections").replaceChildren(...rows.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));

  showNotice(status);
  $("routes-count").textContent = number(status.table.routes);
  $("instances-count").textContent = number(status.table.instances);
  $("version").textContent = `router ${status.version}`;
}

function showCores(cores, before, ms) {
  const rates = cores.map((core, i) => (1000 * (core.requests - (before[i] || core).requests)) / ms);
  const top = Math.max(...rates, 1);
  $("cores").replaceChildren(...cores.map((core, i) =>
    el("div", { class: "core", title: `table version ${core.table_version}, longest turn ${time(core.turn_longest_us)}` },
      el("span", { class: "soft" }, String(core.index)),
      el("div", { class: "bar thin" }, el("i", { width: `${(100 * rates[i]) / top}%` })),
      el("span", { class: "soft" }, `${rate(rates[i])}/s`))));
}

function showNotice(status) {
  const notes = [];
  const config = status.config;
  let bad = false;
  if (config.error) { bad = true; notes.push(`The file was not taken, the last good table is kept: ${config.error.what}`); }
  if (config.restart_needed && config.restart_needed.length) notes.push(`Changed in the file, but needs a restart: ${config.restart_needed.join(", ")}`);
  if (config.warnings) notes.push(...config.warnings);
  if (status.table.draining) notes.push(`${status.table.draining} removed instance${status.table.draining > 1 ? "s" : ""} still in use`);
  if (status.totals.bugs) { bad = true; notes.push(`router_bug_total is ${status.totals.bugs}: please report`); }
  if (status.totals.access_log_dropped) notes.push(`${number(status.totals.access_log_dropped)} access log lines dropped`);
  notice(notes.join("\n"), bad);
}

function notice(text, bad) {
  const box = $("notice");
  if (box.textContent !== text) box.textContent = text;
  box.hidden = !text;
  box.className = bad ? "bad" : "";
}

/** A target on a route: bar, share, name. */
function share(target) {
  const off = target.percent === 0;
  return el("div", { class: off ? "share off" : "share", title: `weight ${target.weight}` },
    el("div", { class: "bar thin" }, off ? "" : el("i", { width: `${target.percent}%` })),
    el("span", { class: "n" }, `${Number(target.percent.toFixed(2))}%`),
    el("span", { class: "job" }, target.job, el("span", { class: "tag" }, target.weight)));
}

function showRoutes(stats) {
  if (!table) return;
  const by = new Map(stats.rows.map((row) => [row.route, row]));
  const order = (route) => { const row = by.get(route.endpoint); return row ? (row.per_second || 0) * 1e9 + row.requests : -1; };
  const list = table.routes.map((route) => [order(route), route]).sort((a, b) => b[0] - a[0] || (a[1].endpoint < b[1].endpoint ? -1 : 1));
  const rows = list.slice(0, ROWS).map(([, route]) => {
    const row = by.get(route.endpoint);
    const name = el("td", { class: "name" }, route.endpoint);
    if (route.https_only) name.append(el("span", { class: "tag" }, "https only"));
    if (row && row.denied) name.append(el("span", { class: "tag" }, `${number(row.denied)} denied`));
    return el("tr", {}, name,
      el("td", {}, ...route.targets.map(share)),
      el("td", { class: "n" }, rate(row && row.per_second)),
      el("td", { class: "n" }, time(row && row.recent && row.recent.p50_us)),
      el("td", { class: "n" }, time(row && row.recent && row.recent.p99_us)),
      el("td", { class: "answers" }, answersBar((row && row.answers) || {}, true)),
      el("td", { class: "n" }, row ? number(row.requests) : "–"));
  });
  if (!rows.length) rows.push(el("tr", {}, el("td", { class: "empty", colspan: "7" }, filter ? "No route has this text." : "The table has no routes.")));
  $("routes").replaceChildren(...rows);
  more("routes-more", list.length + table.more_routes - Math.min(list.length, ROWS), "routes");
}

function showInstances(stats) {
  const wanted = stats.rows.filter((row) => !filter || row.job.includes(filter) || row.instance.includes(filter));
  const rows = wanted.slice(0, ROWS).map((row) => {
    const failed = row.connects_failed + row.failures;
    const name = el("td", { class: "name" }, row.instance);
    if (row.ejected_on_cores) name.append(el("span", { class: "tag bad" }, `set aside on ${row.ejected_on_cores} core${row.ejected_on_cores > 1 ? "s" : ""}`));
    return el("tr", {},
      el("td", { class: "name" }, row.job), name,
      el("td", { class: "n" }, rate(row.per_second)),
      el("td", { class: "n" }, number(row.in_flight)),
      el("td", { class: "n" }, time(row.recent && row.recent.p50_us)),
      el("td", { class: "n" }, time(row.recent && row.recent.p99_us)),
      el("td", { class: "answers" }, answersBar(row.answers, true)),
      el("td", { class: failed ? "n bad" : "n" }, number(failed)),
      el("td", { class: "n" }, number(row.requests)));
  });
  if (!rows.length) rows.push(el("tr", {}, el("td", { class: "empty", colspan: "9" }, "No instances.")));
  $("instances").replaceChildren(...rows);
  more("instances-more", wanted.length - Math.min(wanted.length, ROWS) + stats.more, "instances");
}

function more(id, count, what) {
  $(id).hidden = count <= 0;
  $(id).textContent = `and ${number(Math.max(count, 0))} more ${what}; the filter finds them`;
}

async function look() {
  const begun = performance.now();
  try {
    const status = await ask("/v1/status");
    const now = performance.now();
    const key = `${status.table.version} ${filter}`;
    if (!table || table.key !== key) {
      const q = filter ? `&q=${encodeURIComponent(filter)}` : "";
      table = Object.assign(await ask(`/v1/table?limit=500${q}`), { key });
    }
    const [routes, instances] = await Promise.all([ask("/v1/stats?by=route&limit=500"), ask("/v1/stats?by=instance&limit=500")]);
    showStatus(status, now);
    showRoutes(routes);
    showInstances(instances);
    $("asked").textContent = `asked in ${Math.round(performance.now() - begun)} ms`;
  } catch (error) {
    last = null;
    $("phase").textContent = "no answer";
    $("phase").className = "pill bad";
    notice(`The router does not answer: ${error.message}`, true);
  }
}

async function loop() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((done) => setTimeout(done, EVERY_MS));
  }
}

async function explain(url, from) {
  const query = new URLSearchParams({ url });
  if (from) query.set("from", from);
  const path = `/v1/explain?${query}`;
  try {
    const told = await ask(path);
    const verdict = told.outcome === "served" ? `served by ${told.route}` : told.text;
    $("told").replaceChildren(
      el("p", { class: told.outcome === "served" ? "verdict" : "verdict bad" }, verdict),
      el("ol", {}, ...told.steps.map((step) => el("li", { class: step.hit ? "hit" : "" }, step.text)),
        ...told.targets.map((target) => el("li", { class: target.percent > 0 ? "hit" : "" }, target.text))),
      el("p", { class: "command" }, `curl '${location.origin}${path}&format=text'`));
  } catch (error) {
    const advice = error.body && error.body.try ? ` – try ${error.body.try}` : "";
    $("told").replaceChildren(el("p", { class: "verdict bad" }, error.message + advice));
  }
}

$("explain").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const [url, from] = [form.get("url").trim(), form.get("from").trim()];
  window.history.replaceState(null, "", `?${new URLSearchParams(from ? { url, from } : { url })}`);
  explain(url, from);
});
$("filter").addEventListener("input", (event) => { filter = event.target.value.trim(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.matches("input")) { event.preventDefault(); $("filter").focus(); }
});

const asked = new URLSearchParams(location.search);
if (asked.get("url")) {
  $("explain").elements.url.value = asked.get("url");
  $("explain").elements.from.value = asked.get("from") || "";
  explain(asked.get("url"), asked.get("from") || "");
}
loop();
