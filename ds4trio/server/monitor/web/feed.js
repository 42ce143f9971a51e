"use strict";
// What all parts of the page use: the key, words for figures, server-sent events, and the stream that feeds the page.
// It is read with fetch, since an EventSource cannot send a key.

const KEY = "ds4trio key";
const QUIET = 15000; // milliseconds: the server says something every 5 s
const AGAIN = 1000;

let key = sessionStorage.getItem(KEY) || "";

const $ = id => document.getElementById(id);

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function draw(tag, kind) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  if (kind) element.setAttribute("class", kind);
  return element;
}

// What is written is compared first: most of what a snapshot says is on the page already.
function set(element, text) { if (element.textContent !== text) element.textContent = text; }
function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

function number(value) { return value.toLocaleString("en"); }
function plural(count, word) { return `${number(count)} ${word}${count === 1 ? "" : "s"}`; }
function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.0995) return `${Math.round(1000 * value)} ms`;
  if (value < 59.95) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min` + (whole % 60 ? ` ${whole % 60} s` : "");
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h` + (minutes % 60 ? ` ${minutes % 60} min` : "");
}
function bytes(value) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20]]) {
    if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${Math.round(value / 1024)} KiB`;
}
function clock(at) { return new Date(1000 * at).toLocaleTimeString("en-GB"); }

function headers(more) { return key ? {...more, Authorization: `Bearer ${key}`} : {...more}; }

// What the server says of a request that it refuses.
async function refusal(response) {
  try { return (await response.json()).error.message; } catch { return `the server answered ${response.status}`; }
}

// The events of a response: {data}, or {comment} for what only people read.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      const parts = (rest + value).replaceAll("\r", "").split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n");
        const comment = lines.filter(line => line.startsWith(":")).map(line => line.slice(1).trim()).join(" ");
        if (comment) yield {comment};
        const data = lines.filter(line => line.startsWith("data:")).map(line => line.slice(5).trim()).join("\n");
        if (data) yield {data};
      }
    }
  } finally { reader.cancel().catch(() => {}); }
}

// Until somebody has given a key. It stays in this tab.
async function askForKey(refused) {
  set($("state"), "an API key is needed");
  set($("key-refused"), refused);
  $("key-form").hidden = false;
  $("forget-key").hidden = true;
  $("key").focus();
  await new Promise(done => {
    $("key-form").onsubmit = event => { event.preventDefault(); done(); };
  });
  key = $("key").value.trim();
  sessionStorage.setItem(KEY, key);
  $("key").value = "";
  $("key-form").hidden = true;
}

$("forget-key").onclick = () => { sessionStorage.removeItem(KEY); location.reload(); };

// Follow the server for ever, whatever becomes of it. `show` gets each snapshot, `lost` hears why none come.
async function follow(show, lost) {
  if (document.body.dataset.needsKey === "yes" && !key) await askForKey("");
  for (;;) {
    const quiet = new AbortController();
    let timer = setTimeout(() => quiet.abort(), QUIET);
    let reason = "The server does not answer.";
    try {
      const response = await fetch("/requests/events", {headers: headers(), signal: quiet.signal});
      if (response.status === 401) {
        await askForKey(key && "The server does not know this key.");
        continue;
      }
      if (!response.ok) reason = `The server refuses to say how it is: ${await refusal(response)}`;
      else {
        $("forget-key").hidden = !key;
        for await (const event of events(response)) {
          clearTimeout(timer);
          timer = setTimeout(() => quiet.abort(), QUIET);
          try { if (event.data) show(JSON.parse(event.data)); } catch (fault) { reportError(fault); }
        }
      }
    } catch (error) {
      // Not reachable, cut off, or silent for too long.
      if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
    } finally { clearTimeout(timer); }
    lost(reason);
    await new Promise(done => setTimeout(done, AGAIN));
  }
}
