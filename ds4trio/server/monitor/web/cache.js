"use strict";
// What is kept: the cells of the KV by conversation, the disk, and why prompts missed.

const COLUMNS = 64, SQUARES = 512, COLOURS = 8;
const MOST_MISSES = 20;

function slotKind(slot) { return `slot-${slot.id % COLOURS}${slot.running ? "" : " rests"}`; }

// The cells in use, one square for each 512th of the KV: what conversations share, then each one's own.
function drawCells(kv) {
  const own = kv.slots.reduce((sum, slot) => sum + slot.cells, 0);
  const shared = Math.max(0, kv.running_cells + kv.cached_cells - own);
  const parts = [["shared", shared], ...kv.slots.map(slot => [slotKind(slot), slot.cells])].filter(([, cells]) => cells);
  const paths = [];
  let filled = 0, square = 0;
  for (const [kind, cells] of parts) {
    filled += SQUARES * cells / kv.cells;
    // Nobody who has cells goes without a square.
    const end = Math.min(SQUARES, Math.max(square + 1, Math.round(filled)));
    let shape = "";
    for (; square < end; square++) shape += `M${square % COLUMNS + .08} ${Math.floor(square / COLUMNS) + .08}h.84v.84h-.84z`;
    const path = draw("path", kind);
    path.setAttribute("d", shape);
    paths.push(path);
  }
  $("cells").replaceChildren(...paths);
  return shared;
}

function showKv(data) {
  const kv = data.kv;
  const state = JSON.stringify([kv, data.disk_limit_bytes]);
  if (!kv || $("cells").dataset.state === state) return;
  $("cells").dataset.state = state;
  const shared = drawCells(kv), free = kv.cells - kv.running_cells - kv.cached_cells;
  set($("kv-text"), `${number(kv.cells)} cells: ${number(kv.running_cells)} running, ${number(kv.cached_cells)} cached, ` +
    `${number(free)} free. ${bytes(kv.beside_bytes)} beside them in memory.`);
  const line = (kind, label, tokens, cells, how) => {
    const row = make("tr"), label_ = make("td");
    label_.append(make("span", undefined, `mark ${kind}`), label);
    row.append(label_, make("td", tokens, "number"), make("td", number(cells), "number"), make("td", how));
    return row;
  };
  const lines = kv.slots.map(slot =>
    line(slotKind(slot), `slot ${slot.id}`, number(slot.tokens), slot.cells, slot.running ? "running" : "cached"));
  if (shared) lines.unshift(line("shared", "shared by several", "", shared, ""));
  $("slots").replaceChildren(...lines);
  $("slots-view").hidden = lines.length === 0;
  showDisk(kv.disk_bytes, data.disk_limit_bytes);
}

function showDisk(used, limit) {
  $("disk").hidden = !limit;
  if (!limit) return;
  const text = `${bytes(used)} of the ${bytes(limit)} that it may take`;
  $("disk").firstElementChild.style.width = `${Math.min(100, 100 * used / limit)}%`;
  setAttribute($("disk"), "aria-valuemax", limit);
  setAttribute($("disk"), "aria-valuenow", Math.min(used, limit));
  setAttribute($("disk"), "aria-valuetext", text);
  set($("disk-text"), `${text}.`);
}

function list(element, items, nothing) {
  const state = JSON.stringify(items);
  if (element.dataset.state === state) return;
  element.dataset.state = state;
  const lines = items.map(([at, what, text]) => {
    const line = make("li");
    line.append(make("small", `${clock(at)} ${what} `), text);
    return line;
  });
  element.replaceChildren(...(lines.length ? lines : [make("li", nothing, "faint")]));
}

function showMisses(data) {
  const missed = [...data.requests, ...data.ended].filter(request => request.miss).slice(0, MOST_MISSES);
  list($("misses"), missed.map(request => [request.arrived, name(request),
    `${request.miss.reason}. It differs from token ${number(request.miss.position)} on; ` +
    `${plural(request.miss.lost, "cached token")} of no use.`]), "None lately.");
}

function showErrors(data) {
  list($("errors"), data.errors.map(error => [error.at, error.what, error.message]), "None lately.");
}
