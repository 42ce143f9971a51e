"use strict";
// A small chat, to try the model as any client would.

const TOOL = {type: "function", function: {name: "get_weather", description: "The weather in a city, now.",
  parameters: {type: "object", properties: {city: {type: "string"}}, required: ["city"]}}};
const WEATHER = "Sunny, 21 °C.";

let messages = [], talking = null;

function addSaid(who, kind) {
  const block = make("div", undefined, `said ${kind}`), head = make("small", who);
  block.append(head);
  $("talk").append(block);
  $("talk").hidden = false;
  return block;
}

// What the model says, as it comes. `message` is what goes back with the next turn.
class Said {
  constructor(block) {
    this.block = block;
    this.state = make("small", " · …");
    this.reasoning = make("details");
    this.thought = make("div", "", "text");
    this.content = make("div", "", "text");
    this.calls = [];
    this.reasoning.append(make("summary", "reasoning"), this.thought);
    this.reasoning.hidden = true;
    block.append(this.state, this.reasoning, this.content);
  }

  take(choice) {
    const delta = choice.delta || {};
    if (delta.reasoning_content) { this.reasoning.hidden = false; this.thought.append(delta.reasoning_content); }
    if (delta.content) this.content.append(delta.content);
    for (const part of delta.tool_calls || []) this.takeCall(part);
    if (choice.finish_reason) set(this.state, ` · ${choice.finish_reason}`);
    else if (delta.content || delta.reasoning_content || delta.tool_calls) set(this.state, " · …");
  }

  takeCall(part) {
    let call = this.calls[part.index];
    if (!call) {
      const shown = make("div", "", "call");
      call = this.calls[part.index] = {id: part.id, function: {name: "", arguments: ""}, shown};
      this.block.append(shown);
    }
    call.function.name += part.function.name || "";
    call.function.arguments += part.function.arguments || "";
    call.shown.textContent = `${call.function.name}(${call.function.arguments})`;
  }

  get messages() {
    const answer = {role: "assistant", content: this.content.textContent};
    if (!this.calls.length) return [answer];
    answer.tool_calls = this.calls.map(({id, function: called}) => ({id, type: "function", function: called}));
    return [answer, ...this.calls.map(({id}) => ({role: "tool", tool_call_id: id, content: WEATHER}))];
  }

  end() {
    for (const node of [this.thought, this.content]) node.normalize();
    if (this.calls.length) {
      this.block.append(make("small", `The tool's answer, “${WEATHER}”, goes along with your next message.`));
    }
  }

  fail(error) {
    set(this.state, "");
    this.block.append(make("div", error.name === "AbortError" ? "stopped" : error.message, "bad"));
  }
}

async function ask(text) {
  const asked = [...messages, {role: "user", content: text}];
  addSaid("you", "you").append(make("div", text, "text"));
  const said = new Said(addSaid("the model", "model"));
  talking = new AbortController();
  const signal = talking.signal;
  $("talk").setAttribute("aria-busy", "true"); // read out when it is complete, not word by word
  try {
    const response = await fetch("/v1/chat/completions", {method: "POST", signal,
      headers: headers({"Content-Type": "application/json"}),
      body: JSON.stringify({stream: true, messages: asked, ...($("tool").checked ? {tools: [TOOL]} : {})})});
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      if (event.comment) set(said.state, ` · ${event.comment}`);
      if (!event.data || event.data === "[DONE]") continue;
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.choices?.length) {
        const talk = $("talk"), atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
        said.take(chunk.choices[0]);
        if (atEnd) talk.scrollTop = talk.scrollHeight;
      }
    }
    if (!signal.aborted) messages = [...asked, ...said.messages];
    said.end();
  } catch (error) {
    said.fail(error instanceof TypeError ? new Error("The server does not answer.") : error);
  } finally {
    talking = null;
    $("talk").setAttribute("aria-busy", "false");
    $("talk").scrollTop = $("talk").scrollHeight;
  }
}

$("try").onsubmit = async event => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || talking) return;
  $("prompt").value = "";
  $("prompt").focus();
  $("send").disabled = true;
  $("stop").disabled = false;
  await ask(text);
  $("send").disabled = false;
  $("stop").disabled = true;
};
$("prompt").onkeydown = event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("try").requestSubmit(); }
};
$("stop").onclick = () => { $("prompt").focus(); talking?.abort(); };
$("forget").onclick = () => { talking?.abort(); messages = []; $("talk").replaceChildren(); $("talk").hidden = true; };
