"use strict";
// The whole of the page: the latest snapshot is drawn at most once a frame, however many come.

const RATE_SECONDS = 5, CURVE_SECONDS = 120;

let latest = null; // the last snapshot, and by which of the browser's milliseconds it came
let samples = []; // [at, prompt tokens computed, answer tokens] of the last minutes
let rates = []; // [at, prompt tokens a second, answer tokens a second]
let pending = false;

function soon() {
  if (pending || !latest) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; drawPage(); });
}

function show(data) {
  if (latest && latest.data.started !== data.started) samples = rates = []; // another server
  latest = {data, came: performance.now()};
  samples = [...samples.filter(([at]) => at > data.at - CURVE_SECONDS), [data.at, data.totals.computed, data.totals.output]];
  const [at, computed, output] = samples.findLast(([at]) => at <= data.at - RATE_SECONDS) || samples[0];
  const elapsed = data.at - at, rate = (now, then) => elapsed > 0 ? Math.max(0, now - then) / elapsed : 0;
  rates = [...rates.filter(([at]) => at > data.at - CURVE_SECONDS),
    [data.at, rate(data.totals.computed, computed), rate(data.totals.output, output)]];
  $("gone").hidden = true;
  soon();
}

function lost(reason) {
  set($("state"), "not reachable");
  if (!$("gone").hidden) return; // said once
  set($("gone"), `${reason} ` + (latest ? `What you see is from ${clock(latest.data.at)}. ` : "") +
    "The page tries again every second.");
  $("gone").hidden = false;
}

function drawPage() {
  const data = latest.data, now = data.at + (performance.now() - latest.came) / 1000;
  showHead(data);
  showFigures(data);
  showRequests(data, $("gone").hidden ? now : data.at);
  showKv(data);
  showMisses(data);
  showErrors(data);
}

function showHead(data) {
  const states = {ready: "ready", loading: "loading the model", wedged: "the model does not answer", failed: "failed"};
  set($("model"), data.models.join(", "));
  if ($("gone").hidden) set($("state"), states[data.state]);
  const details = {loading: `${Math.round(100 * data.loaded)} %, `, failed: `${data.message}, `}[data.state] || "";
  set($("about"), `${details}version ${data.version}, started ${clock(data.started)}` +
    (data.key ? `, requests of the key ${data.key}` : ""));
}

function showFigures(data) {
  const computing = data.requests.filter(FILTERS.computing).length, totals = data.totals;
  set($("running"), number(computing));
  set($("waiting"), number(data.requests.filter(FILTERS.queued).length));
  const [, prompt, output] = rates[rates.length - 1];
  set($("prompt-rate"), number(Math.round(prompt)));
  set($("output-rate"), number(Math.round(output)));
  drawCurve($("prompt-curve"), 1, data.at);
  drawCurve($("output-curve"), 2, data.at);
  set($("ended"), number(totals.ended));
  set($("outcomes"), ["stop", "length", "cancelled", "failed"].filter(outcome => totals[outcome])
    .map(outcome => `${number(totals[outcome])} ${{stop: "complete", length: "at full length"}[outcome] || outcome}`).join(", "));
  const all = totals.computed + totals.memory + totals.disk;
  set($("prompt-tokens"), number(all));
  ["computed", "memory", "disk"].forEach((kind, index) => {
    $("reuse").children[index].style.width = all ? `${100 * totals[kind] / all}%` : "0";
  });
  set($("reuse-text"), `${number(totals.computed)} computed, ${number(totals.memory)} from memory, ${number(totals.disk)} from disk`);
}

function drawCurve(svg, index, now) {
  const most = Math.max(1, ...rates.map(rate => rate[index]));
  const points = rates.map(rate =>
    `${(60 - 60 * (now - rate[0]) / CURVE_SECONDS).toFixed(2)} ${(19 - 18 * rate[index] / most).toFixed(2)}`);
  setAttribute(svg.firstElementChild, "d", points.length > 1 ? `M${points.join("L")}` : "");
}

$("view").addEventListener("scroll", soon, {passive: true});
addEventListener("resize", soon);
$("filter").onchange = event => { filter = event.target.value; $("view").scrollTop = 0; soon(); };
setInterval(() => { if (latest && latest.data.requests.length && $("gone").hidden) soon(); }, 1000);
follow(show, lost);
