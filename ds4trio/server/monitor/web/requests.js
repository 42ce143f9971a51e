"use strict";
// The requests on one time line. However many there are, only the rows in view exist.

const SPARE = 6; // rows that exist beyond both edges of the view, so that Tab finds its way
const SPANS = [60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600]; // seconds
const UNITS = 1000; // a bar's width in its own coordinates
const STAGES = ["queued", "loading", "prefill", "decode", "withheld"];
const OUTCOMES = {stop: "complete", length: "complete, at its full length", cancelled: "cancelled", failed: "failed"};

const FILTERS = {
  all: () => true,
  computing: request => request.phase !== "queued" && request.phase !== "ended",
  queued: request => request.phase === "queued",
  ended: request => request.phase === "ended",
  trouble: request => request.outcome === "cancelled" || request.outcome === "failed",
};

const rows = new Map(); // by id, those in view
let filter = "all";

function name(request) { return `${request.protocol} ${request.id.slice(-6)}`; }

// Who computes, by arrival; who waits, as the queue has them; who has ended, the latest first.
function ordered(data) {
  const computing = data.requests.filter(FILTERS.computing), queued = data.requests.filter(FILTERS.queued);
  const ended = [...data.requests.filter(FILTERS.ended), ...data.ended];
  return [...computing, ...queued.sort((one, other) => one.queue_position - other.queue_position), ...ended];
}

// --- words -----------------------------------------------------------------------------------------------------------

function phase(request) {
  const prompt = `${number(request.prefilled_tokens)} / ${number(request.prompt_tokens)}`;
  switch (request.phase) {
    case "queued": return request.queue_position ? `queued, ${request.queue_position} of ${request.queue_length}` : "about to start";
    case "loading": return `loading KV, ${prompt} tokens`;
    case "prefill":
      return `prefill ${prompt}` + (request.prefill_rate ? `, ${Math.round(request.prefill_rate)} t/s` : "") +
        (request.eta === null ? "" : `, ${seconds(request.eta)} left`);
    case "decode": return `decode, ${plural(request.output_tokens, "token")}`;
    case "withheld": return `decode, ${plural(request.output_tokens, "token")}, withheld`;
  }
  if (request.outcome === "cancelled") return `cancelled in ${request.stages[request.stages.length - 1][0]}`;
  return OUTCOMES[request.outcome] || "ended";
}

function sizes(request) {
  if (!request.prompt_tokens) return "";
  const cached = request.cached_tokens ? `, ${number(request.cached_tokens)} cached` : "";
  const computed = request.phase === "ended" && request.prefilled_tokens < request.prompt_tokens ?
    `${number(request.prefilled_tokens)} of ` : "";
  const output = request.phase === "ended" ? `, ${number(request.output_tokens)} out` : "";
  return `${computed}${plural(request.prompt_tokens, "prompt token")}${cached}${output}`;
}

// The second line: why it ended, what it waits for, or how large it is.
function more(request) {
  if (request.cause) return `${request.cause}; ${sizes(request)}`;
  if (request.queue_position && request.blocker) return `behind ${request.blocker.slice(-6)}`;
  return sizes(request);
}

function silence(request) {
  if (!request.stream && !request.heartbeats) return "not streamed";
  if (!request.longest_silence) return "no beat";
  return `silent up to ${seconds(request.longest_silence)}, ${plural(request.heartbeats, "beat")}`;
}

// --- a row -----------------------------------------------------------------------------------------------------------

function makeRow(request) {
  const element = make("div", undefined, "row"), cell = kind => {
    const made = make("div", undefined, kind);
    made.setAttribute("role", "cell");
    element.append(made);
    return made;
  };
  element.setAttribute("role", "row");
  element.dataset.id = request.id;
  const who = cell("who"), what = cell("phase"), bar = cell("bar"), times = cell("times"), act = cell("act");
  who.append(make("div", name(request), "line"), make("small", request.client || "–", "line"));
  who.lastChild.style.display = "block";
  who.title = [request.id, request.client, request.key && `key ${request.key}`].filter(Boolean).join(", ");
  const row = {element, act, times: [make("div", "", "line"), make("small", "", "line")]};
  row.words = make("div", "", "line");
  row.more = make("small", "", "line");
  row.progress = make("div", undefined, "progress");
  row.progress.setAttribute("role", "progressbar");
  row.progress.setAttribute("aria-label", `prefill of ${name(request)}`);
  row.progress.setAttribute("aria-valuemin", "0");
  row.progress.append(make("i", undefined, "memory"), make("i", undefined, "computed"));
  row.more.style.display = row.times[1].style.display = "block";
  what.append(row.words, row.more, row.progress);
  times.append(...row.times);
  row.svg = draw("svg");
  row.svg.setAttribute("viewBox", `0 0 ${UNITS} 20`);
  row.svg.setAttribute("preserveAspectRatio", "none");
  row.svg.setAttribute("role", "img");
  row.paths = Object.fromEntries([...STAGES, "beats", "end"].map(kind => [kind, draw("path", kind)]));
  row.svg.append(...Object.values(row.paths));
  row.before = make("small");
  bar.append(row.svg, row.before);
  row.cancel = make("button", "Cancel");
  row.cancel.setAttribute("aria-label", `Cancel ${name(request)}`);
  row.cancel.onclick = () => cancelRequest(request, row.cancel);
  act.append(row.cancel);
  return row;
}

async function cancelRequest(request, button) {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true"); // not `disabled`: that would take the focus from it
  try {
    const answer = await fetch(`/requests/${encodeURIComponent(request.id)}`, {method: "DELETE", headers: headers()});
    set($("note"), answer.ok ? `${name(request)} was cancelled.` : `${name(request)}: ${await refusal(answer)}`);
  } catch {
    set($("note"), `${name(request)} could not be cancelled: the server does not answer.`);
    button.setAttribute("aria-disabled", "false");
  }
}

function updateRow(row, request, now, span) {
  const ended = request.phase === "ended", long = request.prompt_tokens && ["loading", "prefill"].includes(request.phase);
  set(row.words, phase(request));
  row.words.classList.toggle("bad", FILTERS.trouble(request));
  set(row.more, more(request));
  row.more.title = more(request);
  row.more.hidden = Boolean(long);
  row.progress.hidden = !long;
  if (long) {
    setAttribute(row.progress, "aria-valuemax", request.prompt_tokens);
    setAttribute(row.progress, "aria-valuenow", request.prefilled_tokens);
    setAttribute(row.progress, "aria-valuetext", phase(request));
    const share = tokens => `${100 * tokens / request.prompt_tokens}%`;
    row.progress.children[0].style.width = share(Math.min(request.cached_tokens, request.prefilled_tokens));
    row.progress.children[1].style.width = share(Math.max(0, request.prefilled_tokens - request.cached_tokens));
  }
  const until = ended ? request.since : now;
  set(row.times[0], `${ended ? "took" : "for"} ${seconds(Math.max(0, until - request.arrived))}` +
    (request.first_token === null ? "" : `, first at ${seconds(request.first_token)}`));
  set(row.times[1], silence(request));
  if (ended) set(row.act, clock(request.since));
  drawBar(row, request, now, span, until);
}

function drawBar(row, request, now, span, until) {
  const gone = until < now - span;
  set(row.before, gone ? `ended ${seconds(Math.round(now - until))} ago` : "");
  const left = now - span, place = at => Math.min(UNITS, Math.max(0, UNITS * (at - left) / span));
  const drawn = Object.fromEntries(Object.keys(row.paths).map(kind => [kind, ""]));
  if (!gone) {
    request.stages.forEach(([stage, at], index) => {
      const next = index + 1 < request.stages.length ? request.arrived + request.stages[index + 1][1] : until;
      const from = place(request.arrived + at), to = place(next);
      if (next >= left) drawn[stage] += `M${from.toFixed(1)} 0H${Math.max(to, from + 1).toFixed(1)}V20H${from.toFixed(1)}z`;
    });
    for (const at of request.beats) {
      const beat = request.arrived + at;
      if (beat >= left) drawn.beats += `M${place(beat).toFixed(1)} 0V8`;
    }
    if (request.phase === "ended") drawn.end = `M${Math.max(2, place(until) - 1).toFixed(1)} 0V20`;
  }
  for (const [kind, path] of Object.entries(row.paths)) setAttribute(path, "d", drawn[kind]);
  row.paths.end.classList.toggle("bad", FILTERS.trouble(request));
  setAttribute(row.svg, "aria-label", story(request, until));
}

// The bar in words: how long each stage was, in all.
function story(request, until) {
  const spent = new Map();
  request.stages.forEach(([stage, at], index) => {
    const next = index + 1 < request.stages.length ? request.stages[index + 1][1] : until - request.arrived;
    spent.set(stage, (spent.get(stage) || 0) + Math.max(0, next - at));
  });
  return [...spent].map(([stage, time]) => `${stage} ${seconds(time)}`).join(", ");
}

// --- all of them -----------------------------------------------------------------------------------------------------

// The least span that all who live fit into, and who has ended within the last minute.
function spanOf(requests, now) {
  const shown = requests.filter(request => request.phase !== "ended" || request.since > now - SPANS[0]);
  const longest = Math.max(0, ...shown.map(request => now - request.arrived));
  return SPANS.find(span => span >= longest) || SPANS[SPANS.length - 1];
}

// Where the four lines behind the bars are, and now.
function drawAxis(span) {
  if ($("axis").dataset.span === String(span)) return;
  $("axis").dataset.span = span;
  const [unit, size] = span > 3600 ? ["h", 3600] : span > 60 ? ["min", 60] : ["s", 1];
  const lines = [4, 3, 2, 1].map(step => `−${span * step / 4 / size} ${unit}`);
  $("axis").replaceChildren(...[...lines, "now"].map(text => make("span", text)));
}

function showRequests(data, now) {
  const all = ordered(data), shown = all.filter(FILTERS[filter]);
  for (const input of $("filter").querySelectorAll("input")) {
    set(input.nextElementSibling.querySelector("b"), number(all.filter(FILTERS[input.value]).length));
  }
  const earlier = data.totals.ended - all.filter(FILTERS.ended).length;
  $("older").hidden = earlier <= 0;
  set($("older"), `${number(data.totals.ended)} have ended since the server was started; the last ` +
    `${number(data.ended.length)} are listed.`);
  $("nobody").hidden = all.length > 0;
  const span = spanOf(all, now), view = $("view");
  drawAxis(span);
  setAttribute(view, "aria-rowcount", shown.length + 1);
  const height = rows.size ? rows.values().next().value.element.offsetHeight : 50;
  const first = Math.max(0, Math.floor(view.scrollTop / height) - SPARE);
  const last = Math.min(shown.length, Math.ceil((view.scrollTop + view.clientHeight) / height) + SPARE);
  $("rows").style.height = `${shown.length * height}px`;

  const focused = document.activeElement, inView = shown.slice(first, Math.max(last, first + 2 * SPARE));
  const known = new Set(inView.map(request => request.id));
  for (const [id, row] of rows) if (!known.has(id)) { row.element.remove(); rows.delete(id); }
  let previous = null;
  inView.forEach((request, index) => {
    let row = rows.get(request.id);
    if (!row) rows.set(request.id, row = makeRow(request));
    updateRow(row, request, now, span);
    row.element.style.top = `${(first + index) * height}px`;
    setAttribute(row.element, "aria-rowindex", first + index + 2);
    const wanted = previous ? previous.nextSibling : $("rows").firstChild;
    if (row.element !== wanted) $("rows").insertBefore(row.element, wanted);
    previous = row.element;
  });
  // A row that was moved has lost the focus. One whose button is gone leaves it to the list, and not to the next button:
  // whoever presses Enter twice must not cancel two requests.
  if (focused !== document.activeElement) (focused.isConnected ? focused : view).focus({preventScroll: true});
}
