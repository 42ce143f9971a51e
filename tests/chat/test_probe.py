"""What probing finds out: of small templates that differ in one point each, and of the real ones.

With the real ones, conversations as coding agents have them are rendered under what was found, and every word of them
has to come out. Where one does not, the table says so, with the reason; it is checked both ways.
"""

import json
import re
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4trio.chat.capabilities import Capabilities, Switch
from ds4trio.chat.messages import Conversation, Message, Thinking, Tool, ToolCall
from ds4trio.chat.prepare import render
from ds4trio.chat.probe import probe
from ds4trio.chat.spelling import Spelling, pieces
from ds4trio.chat.template import ChatTemplate, TemplateFailedError
from tests.chat.templates import llama_cpp_templates


def found(source: str) -> Capabilities:
    return probe(ChatTemplate(source, bos_token="<s>", eos_token="</s>"), source)


# --- small templates --------------------------------------------------------------------------------------------------

TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
CALLS = (
    "{% for c in m.tool_calls or [] %}<call>"
    "{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}"
)
FULL = TOOLS + "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + CALLS + "</>{% endfor %}<assistant>"
FULL_CAN = Capabilities()


def test_a_template_that_does_everything_plainly_has_the_defaults() -> None:
    assert found(FULL) == FULL_CAN


def test_a_template_that_only_writes_messages_has_no_tools() -> None:
    plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<assistant>"
    assert found(plain) == replace(FULL_CAN, tools=False, calls=False, results="user")


def test_a_broken_template_is_probed_without_an_error() -> None:
    assert isinstance(found("{{ raise_exception('no') }}"), Capabilities)
    assert isinstance(found(""), Capabilities)


@settings(max_examples=50, deadline=None)
@given(cuts=st.tuples(st.integers(0, len(FULL)), st.integers(0, len(FULL))))
def test_no_template_makes_probing_fail(cuts: tuple[int, int]) -> None:
    source = FULL[: min(cuts)] + FULL[max(cuts) :]
    try:
        template = ChatTemplate(source)
    except TemplateFailedError:
        return
    assert isinstance(probe(template, source), Capabilities)


REFUSE = "raise_exception('no')"
SWITCH = "<assistant>{{{{ '</think>' if {} }}}}"
DIFFERENCES: dict[str, tuple[str, str, dict[str, object]]] = {
    "parts": ("{{ m.content }}", "{% for part in m.content %}{{ part.text }}{% endfor %}", {"parts": True}),
    "no system role": (
        "{% for m",
        f"{{{{ {REFUSE} if messages[0].role == 'system' }}}}{{% for m",
        {"instructions": "user", "late_instructions": False},
    ),
    "no late system role": (
        "<{{ m.role",
        f"{{{{ {REFUSE} if m.role == 'system' and not loop.first }}}}<{{{{ m.role",
        {"late_instructions": False},
    ),
    "alternation": (
        "<{{ m.role",
        f"{{{{ {REFUSE} if not loop.first and m.role == loop.previtem.role != 'tool' }}}}<{{{{ m.role",
        {"alternation": True},
    ),
    "the user is needed": (
        "{% for m",
        f"{{{{ {REFUSE} if not messages | selectattr('role', 'eq', 'user') | list }}}}{{% for m",
        {"needs_user": True},
    ),
    "a list of no tools": ("if tools", "if tools | length", {"empty_tools": True}),
    "functions": (TOOLS, "{{ functions }}", {"functions": True}),
    "simple schemas": (
        "{{ tools |",
        "{% for tool in tools %}{% for schema in tool.function.parameters.properties.values() %}"
        "{{ schema.type + schema.description }}{% endfor %}{% endfor %}{{ tools |",
        {"simple_schemas": True},
    ),
    "arguments are text": ("arguments | tojson", "arguments + ''", {"arguments": "text"}),
    "arguments may be text": (
        "{{ c.function.arguments | tojson }}",
        "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}",
        {"arguments": "text"},
    ),
    "content is nothing": (
        "{{ m.content }}",
        f"{{{{ {REFUSE} if m.content == '' }}}}{{{{ m.content or '' }}}}",
        {"empty_content": None},
    ),
    "one call a turn": ("<call>", f"{{{{ {REFUSE} if m.tool_calls | length > 1 }}}}<call>", {"parallel_calls": False}),
    "short ids": ("<call>", f"{{{{ {REFUSE} if c.id | length != 9 }}}}<call>", {"call_ids": "nine"}),
    "ids that hold the name": ("c.function.name", "c.id", {"call_ids": "counted"}),
    "ids that hold name and index": (
        "<call>",
        "<call>{{ c.id }}functions.{{ c.function.name }}:{{ loop.index0 }}",
        {"call_ids": "counted_in_turn"},
    ),
    "no text with calls": ("{{ m.content }}", "{{ m.content if not m.tool_calls }}", {"preamble": "before"}),
    "no text before calls": (
        "<{{ m.role }}>{{ m.content }}",
        f"{{{{ {REFUSE} if m.tool_calls and (m.content or loop.previtem.role == 'assistant') }}}}"
        "<{{ m.role }}>{{ m.thinking }}{{ m.content }}",
        {"preamble": "reasoning", "reasoning": "thinking"},
    ),
    "reasoning": ("{{ m.content", "{{ m.reasoning_content }}{{ m.content", {"reasoning": "reasoning_content"}),
    "thoughts": ("{{ m.content", "{{ m.thought }}{{ m.content", {"reasoning": "thought"}),
    "a flag": (
        "<assistant>",
        SWITCH.format("enable_thinking is false"),
        {"switches": (Switch("enable_thinking", True, False),)},
    ),
    "a mode": (
        "<assistant>",
        SWITCH.format("thinking_mode == 'disabled'"),
        {"switches": (Switch("thinking_mode", "enabled", "disabled"),)},
    ),
    "a budget": ("<assistant>", "<assistant>{{ thinking_budget }}", {"budget": "thinking_budget"}),
    "a word": (
        "<assistant>",
        SWITCH.format("'/no_think' in messages[0].content"),
        {"text_switch": "/no_think"},
    ),
    "any effort": (
        "{% for m",
        "{{ reasoning_effort }}{% for m",
        {
            "effort": "reasoning_effort",
            "efforts": ("minimal", "low", "medium", "high", "xhigh", "max"),
            "any_effort": True,
        },
    ),
    "certain efforts": (
        "<assistant>",
        "{% if reasoning_effort is defined and reasoning_effort not in ['none', 'low', 'high'] %}"
        f"{{{{ {REFUSE} }}}}{{% endif %}}<assistant>{{{{ '</think>' if reasoning_effort == 'none' }}}}",
        {"effort": "reasoning_effort", "efforts": ("low", "high"), "effort_off": "none"},
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_one_difference_is_found(name: str) -> None:
    before, after, expected = DIFFERENCES[name]
    assert before in FULL
    assert found(FULL.replace(before, after, 1)) == replace(FULL_CAN, **expected)  # type: ignore[arg-type]


def test_results_belong_to_the_assistant_s_turn_where_the_template_looks_for_them_there() -> None:
    source = FULL.replace(
        "</>", "{% for r in m.tool_responses or [] %}<result>{{ r.response }}</result>{% endfor %}</>"
    )
    assert found(source) == replace(FULL_CAN, results="tool_responses")


def test_the_template_s_own_instructions_are_known_where_ours_replace_them() -> None:
    source = (
        "{% if messages[0].role != 'system' %}<system>Be kind.</>{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<assistant>"
    )
    can = found(source)
    assert can.default_instructions == "Be kind."
    conversation = Conversation(messages=(Message("user", "u"),))
    assert render(ChatTemplate(source), can, conversation).startswith("<system>Be kind.</>")


def test_the_example_of_a_call_is_the_template_s_own() -> None:
    can = found(FULL.replace(TOOLS, ""))
    assert (can.tools, can.calls) == (False, True)
    assert can.call_example == '<call>function_name {"argument_name": "value"}</call>'


# --- real templates ---------------------------------------------------------------------------------------------------

HOSTILE = 'say "hi" \\ to\n\tC:\\new {"a": [1]} é 漢字 🙂 <b>&amp;</b>'
READ = Tool(
    "read_file",
    "Reads a file",
    {
        "type": "object",
        "properties": {"path": {"type": "string", "description": "Where"}, "lines": {"type": ["integer", "null"]}},
        "required": ["path"],
    },
)
RUN = Tool(
    "run_shell",
    "",
    {
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "options": {"type": "object", "properties": {"deep": {"type": "boolean"}}},
            "rest": {"type": "array", "items": {"type": "string"}},
            "any": {},
        },
        "additionalProperties": False,
    },
)
BARE = Tool("stop", "Stops", {})


def call(id_: str, name: str, **arguments: object) -> ToolCall:
    return ToolCall(id_, name, json.dumps(arguments, ensure_ascii=False))


def agent(*turns: Message, enabled: bool | None = None) -> Conversation:
    return Conversation(messages=turns, tools=(READ, RUN, BARE), thinking=Thinking(enabled=enabled))


def chat(*turns: Message) -> Conversation:
    return Conversation(messages=turns)


SYSTEM, ASK = Message("system", "system-text"), Message("user", "first-question")
CONVERSATIONS: dict[str, tuple[Conversation, tuple[str, ...]]] = {
    "plain": (chat(SYSTEM, ASK), ("system-text", "first-question")),
    "reasoned": (
        chat(SYSTEM, ASK, Message("assistant", "first-answer", "a-thought"), Message("user", "second-question")),
        ("system-text", "first-question", "first-answer", "second-question"),
    ),
    "call": (
        agent(
            SYSTEM,
            ASK,
            Message("assistant", "", "a-thought", (call("call_1", "read_file", path="some-path"),)),
            Message("tool", "a-result", tool_call_id="call_1"),
            enabled=True,
        ),
        ("system-text", "read_file", "run_shell", "stop", "first-question", "a-thought", "some-path", "a-result"),
    ),
    "parallel": (
        agent(
            ASK,
            Message(
                "assistant",
                "a-preamble",
                tool_calls=(
                    call("call_1", "read_file", path="some-path"),
                    call("call_2", "run_shell", command="some-command", options={"deep": True}),
                ),
            ),
            Message("tool", "second-result", tool_call_id="call_2"),
            Message("tool", "first-result", tool_call_id="call_1"),
            Message("assistant", "first-answer"),
            Message("user", "second-question"),
        ),
        (
            *("first-question", "a-preamble", "some-path", "some-command", "first-result", "second-result"),
            *("first-answer", "second-question"),
        ),
    ),
    "instructed": (
        chat(
            Message("developer", "first-rule"),
            Message("developer", "second-rule"),
            ASK,
            Message("system", "middle-rule"),
            Message("user", "second-question"),
            Message("user", "third-question"),
            Message("assistant", "first-answer"),
            Message("developer", "late-rule"),
            Message("user", "last-question"),
        ),
        (
            *("first-rule", "second-rule", "first-question", "middle-rule", "second-question", "third-question"),
            *("first-answer", "late-rule", "last-question"),
        ),
    ),
    "hostile": (
        agent(
            Message("user", f"first-question {HOSTILE}"),
            Message("assistant", "", tool_calls=(call("call_1", "run_shell", command=HOSTILE),)),
            Message("tool", f"a-result {HOSTILE}", tool_call_id="call_1"),
            Message("user", "second-question"),
        ),
        (f"first-question {HOSTILE}", HOSTILE, f"a-result {HOSTILE}", "second-question"),
    ),
    "disorderly": (
        agent(
            ASK,
            Message(
                "assistant", tool_calls=(ToolCall("call_1", "read_file", "{broken-json"), ToolCall("", "stop", ""))
            ),
            Message("user", "second-question"),
            Message("assistant", "first-answer"),
            Message("tool", "a-result", tool_call_id="unknown"),
            Message("user", "third-question"),
        ),
        ("first-question", "broken-json", "second-question", "first-answer", "a-result", "third-question"),
    ),
}

# Words that do not come out, by template; ``a-thought`` only counts where the template writes reasoning at all.
LOST = {
    # Text beside calls is not written, and a turn of its own would break the alternation that is checked for.
    ("Mistral-Small-3.2-24B-Instruct-2506.jinja", "parallel"): {"a-preamble"},
    ("mistralai-Mistral-Nemo-Instruct-2407.jinja", "parallel"): {"a-preamble"},
    # Text beside calls is analysis, which is dropped once there is an answer.
    ("openai-gpt-oss-120b.jinja", "parallel"): {"a-preamble"},
}


@cache
def real(name: str) -> tuple[ChatTemplate, Capabilities]:
    source = llama_cpp_templates()[name]
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    return template, probe(template, source)


def position(text: str, word: str) -> int:
    """Where a word stands, as it is or as it looks in JSON; -1 for nowhere."""
    forms = (word, json.dumps(word, ensure_ascii=False)[1:-1], json.dumps(word)[1:-1])
    return min((text.find(form) for form in forms if form in text), default=-1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CONVERSATIONS)
def test_every_word_of_a_conversation_comes_out_of_every_real_template(case: str) -> None:
    conversation, words = CONVERSATIONS[case]
    lost = {}
    for name in llama_cpp_templates():
        template, can = real(name)
        text = render(template, can, conversation)
        missing = {word for word in words if position(text, word) < 0}
        if not can.reasoning:
            missing.discard("a-thought")
        if missing:
            lost[name, case] = missing
        if case == "parallel":
            assert position(text, "first-result") < position(text, "second-result"), name
        assert "None" not in text.partition("first-question")[2], name
        assert "<|return|>" not in text, name
    assert lost == {key: words for key, words in LOST.items() if key[1] == case}


@pytest.mark.slow
def test_a_begun_answer_is_continued_by_every_real_template() -> None:
    for name in llama_cpp_templates():
        template, can = real(name)
        texts = {}
        for begun in ("first-ans", "im", "<|", "assistant", "\n", "[/"):
            texts[begun] = render(template, can, chat(ASK, Message("assistant", f"a{begun}b")))
        assert {text.removesuffix(f"a{begun}b") for begun, text in texts.items()} == {texts["im"][:-4]}, name


@pytest.mark.slow
def test_what_a_message_spells_is_written_as_it_is_by_every_real_template() -> None:
    differing = []
    for name, source in llama_cpp_templates().items():
        template, can = real(name)
        tokens = set(re.findall(r"<[|\uff5c][^|<>\n]+[|\uff5c]>|\[/?[A-Z_]+\]|</?s>|<\w+_of_turn>", source))
        spelled = f"a {' '.join(sorted(tokens))} b"
        call = ToolCall("c", "read", json.dumps({"path": spelled}, ensure_ascii=False))
        turns = (ASK, Message("assistant", "x", tool_calls=(call,)), Message("tool", spelled, tool_call_id="c"))
        conversation = chat(Message("system", spelled), *turns, Message("user", spelled))
        marked = render(template, can, Spelling(tokens).marked(conversation))
        plain = render(template, can, conversation)
        if "".join(pieces(marked)) != plain or len(pieces(marked)) < 3 * len(tokens):
            differing.append(name)
    assert differing == []


@pytest.mark.slow
def test_reasoning_that_is_off_is_not_opened_by_any_real_template() -> None:
    conversation = replace(chat(SYSTEM, ASK), thinking=Thinking(enabled=False))
    for name in llama_cpp_templates():
        template, can = real(name)
        text = render(template, can, conversation, think_start="<think>", think_end="</think>")
        assert not text.rstrip().endswith("<think>"), name


EVERY_EFFORT = ("minimal", "low", "medium", "high", "xhigh", "max")
ENABLE, THINKING = Switch("enable_thinking", True, False), Switch("thinking", True, False)
KNOWN = {
    "Qwen-Qwen3-0.6B": {"arguments": "text", "reasoning": "reasoning_content", "switches": (ENABLE,)},
    "Qwen3-Coder": {},
    "Qwen3.5-4B": {
        "late_instructions": False,
        "needs_user": True,
        "reasoning": "reasoning_content",
        "switches": (ENABLE,),
    },
    "GLM-4.6": {"reasoning": "reasoning_content", "switches": (ENABLE,)},
    "ByteDance-Seed-OSS": {"reasoning": "reasoning_content", "budget": "thinking_budget"},
    "Kimi-K3": {
        "reasoning": "reasoning_content",
        "switches": (THINKING,),
        "effort": "thinking_effort",
        "efforts": ("low", "high", "max"),
    },
    "moonshotai-Kimi-K2": {"call_ids": "counted_in_turn"},
    "LFM2-8B-A1B": {"calls": False, "call_text": "pythonic"},
    "LFM2.5-8B-A1B": {"reasoning": "thinking"},
    "NVIDIA-Nemotron-Nano-v2": {
        "late_instructions": False,
        "needs_user": True,
        "arguments": "text",
        "text_switch": "/no_think",
    },
    "deepseek-ai-DeepSeek-V3.1": {
        "late_instructions": False,
        "tools": False,
        "call_example": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function_name<｜tool▁sep｜>"  # noqa: RUF001
        '{"argument_name": "value"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',  # noqa: RUF001
        "switches": (ENABLE, THINKING),
    },
    "deepseek-ai-DeepSeek-V4": {
        "late_instructions": False,
        "reasoning": "reasoning_content",
        "switches": (ENABLE, THINKING),
        "effort": "reasoning_effort",
        "efforts": EVERY_EFFORT,
        "any_effort": True,
    },
    "google-gemma-2-2b-it": {
        "instructions": "user",
        "late_instructions": False,
        "alternation": True,
        "tools": False,
        "calls": False,
        "results": "user",
    },
    "google-gemma-4-31B-it-interleaved": {
        "results": "tool_responses",
        "preamble": "before",
        "reasoning": "reasoning_content",
        "switches": (ENABLE,),
    },
    "meta-llama-Llama-3.1-8B-Instruct": {"parallel_calls": False, "preamble": "before"},
    "microsoft-Phi-3.5-mini-instruct": {"tools": False, "calls": False, "results": "user"},
    "mistralai-Ministral-3-14B-Reasoning-2512": {
        "alternation": True,
        "arguments": "text",
        "reasoning": "content",
    },
    "mistralai-Mistral-Nemo-Instruct-2407": {
        "instructions": "user",
        "late_instructions": False,
        "alternation": True,
        "needs_user": True,
        "call_ids": "nine",
        "preamble": "nowhere",
    },
    "openai-gpt-oss-120b": {
        "late_instructions": False,
        "parallel_calls": False,
        "preamble": "reasoning",
        "reasoning": "thinking",
        "effort": "reasoning_effort",
        "efforts": EVERY_EFFORT,
        "any_effort": True,
    },
    "tencent-Hy3": {
        "late_instructions": False,
        "reasoning": "reasoning_content",
        "effort": "reasoning_effort",
        "efforts": ("low", "high"),
        "effort_off": "no_think",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_of_a_real_template_is_found(name: str) -> None:
    _, can = real(f"{name}.jinja")
    assert can == replace(Capabilities(), **KNOWN[name])  # type: ignore[arg-type]
