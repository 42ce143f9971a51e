"""Chat templates: what they may do, and that whatever else they try ends in one error and changes nothing."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4trio.chat.template import ChatTemplate, TemplateFailedError

Turn = Mapping[str, object]

USER: Turn = {"role": "user", "content": "hi"}


def render(source: str, messages: Sequence[Turn] = (USER,), **variables: object) -> str:
    return ChatTemplate(source).render(messages, **variables)


def nested(depth: int) -> str:
    loops = "".join(f"{{% for name{index} in [1] %}}" for index in range(depth))
    return loops + "x" + "{% endfor %}" * depth


# --- what a template is for -------------------------------------------------------------------------------------------


def test_messages_and_the_generation_prompt_are_rendered() -> None:
    template = ChatTemplate(
        "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message['content'] }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
        bos_token="<s>",
        eos_token="</s>",
    )
    messages = [{"role": "system", "content": "be brief"}, USER]
    assert template.render(messages) == "<s>[system]be brief</s>[user]hi</s>[assistant]"


def test_without_the_generation_prompt_the_text_ends_with_the_last_turn() -> None:
    source = "{{ messages[0].content }}{% if add_generation_prompt %}[assistant]{% endif %}"
    assert render(source) == "hi[assistant]"
    assert render(source, add_generation_prompt=False) == "hi"


def test_the_keys_of_a_message_and_the_variables_of_a_rendering_have_their_names() -> None:
    messages = [{"role": "tool", "content": "3", "tool_call_id": "call_1"}]
    assert render("{{ messages[0].tool_call_id }} {{ thinking }}", messages, thinking=True) == "call_1 True"


def test_what_a_template_asks_for_and_nobody_gave_is_empty_and_false() -> None:
    assert render("{{ tools }}{% if tools %}yes{% endif %}{{ messages[0].tool_calls }}|") == "|"


def test_blocks_leave_no_lines_and_no_indentation_behind() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_loops_can_break_and_continue() -> None:
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert render(source) == "023"


def test_text_is_not_escaped() -> None:
    messages = [{"role": "user", "content": "<b> & 'é' {{ 1 }}"}]
    assert render("{{ messages[0].content }}{{ messages[0].content | safe }}", messages) == "<b> & 'é' {{ 1 }}" * 2


def test_tojson_writes_json_as_hugging_face_does() -> None:
    value = {"b": "<é & '>", "a": [1, None, True]}
    assert render("{{ value | tojson }}", value=value) == '{"b": "<é & \'>", "a": [1, null, true]}'
    assert render("{{ value | tojson(ensure_ascii=true) }}", value="é") == '"\\u00e9"'
    assert render("{{ value | tojson(indent=2) }}", value=[1]) == "[\n  1\n]"
    assert render("{{ value | tojson(separators=(',', ':'), sort_keys=true) }}", value=value) == (
        '{"a":[1,null,true],"b":"<é & \'>"}'
    )


def test_the_generation_tag_passes_its_text_through() -> None:
    source = "a{% generation %}{% if true %}b{{ messages[0].content }}{% endif %}{% endgeneration %}c"
    assert render(source) == "abhic"


def test_strftime_now_is_the_local_date() -> None:
    before = datetime.now().astimezone()
    rendered = render("{{ strftime_now('%Y-%m-%d %%') }}")
    after = datetime.now().astimezone()
    assert rendered in {f"{day:%Y-%m-%d} %" for day in (before, after)}


def test_datetime_is_the_date_and_not_the_time_so_that_prompts_stay_the_same_for_a_day() -> None:
    before = datetime.now().astimezone()
    rendered = render("{{ 'Today is ' + datetime }}")
    after = datetime.now().astimezone()
    assert rendered in {f"Today is {day:%b %d %Y}" for day in (before, after)}
    assert render("{{ datetime }}", datetime="long ago") == "long ago"


def test_json_text_can_be_read() -> None:
    assert render("{{ (value | from_json).a }}", value='{"a": "é"}') == "é"


def test_every_name_may_be_a_variable_but_the_messages_stay_the_messages() -> None:
    variables = {"self": 1, "environment": 2, "context": 3, "messages": [], "missing": 4}
    source = "{{ environment }}{{ context }}{{ missing }}{{ messages[0].content }}"
    assert ChatTemplate(source).render([USER], **variables) == "234hi"


def test_text_that_is_no_unicode_is_rendered_so_that_it_can_be_encoded() -> None:
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "a\ud800b"}]) == "a?b"


# --- its own errors ---------------------------------------------------------------------------------------------------


def test_raise_exception_gives_the_template_s_own_message_and_nothing_else() -> None:
    with pytest.raises(TemplateFailedError) as caught:
        render("{{ raise_exception('Conversation roles must alternate user/assistant') }}")
    assert str(caught.value) == "Conversation roles must alternate user/assistant"


@pytest.mark.parametrize("argument", ["1", "none", "messages", "undefined_name", "{'a': 1}"])
def test_raise_exception_takes_anything(argument: str) -> None:
    with pytest.raises(TemplateFailedError):
        render(f"{{{{ raise_exception({argument}) }}}}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ nobody.nothing }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages | no_such_filter }}",
        "{{ messages[0]() }}",
        "{{ raise_exception | tojson }}",
        "{{ strftime_now(1) }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
        "{% extends 'base' %}",
    ],
)
def test_a_template_that_fails_ends_in_template_failed_error(source: str) -> None:
    with pytest.raises(TemplateFailedError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{% if %}", id="no condition"),
        pytest.param("{% for message in messages %}", id="no end"),
        pytest.param("{{ messages", id="open braces"),
        pytest.param("{% nonsense %}", id="unknown tag"),
        pytest.param("{% generation %}", id="no endgeneration"),
        pytest.param("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", id="deep parentheses"),
        pytest.param("{% break %}", id="break outside of a loop"),
        pytest.param("{% if true %}{% continue %}{% endif %}", id="continue outside of a loop"),
        pytest.param(nested(25), id="more loops than Python can nest"),
        pytest.param("{{ " + "9" * 5000 + " }}", id="more digits than Python reads"),
    ],
)
def test_source_that_cannot_be_compiled_is_refused_when_it_is_loaded(source: str) -> None:
    with pytest.raises(TemplateFailedError):
        ChatTemplate(source)


FRAGMENTS = [
    *("{{", "}}", "{%", "%}", "{#", "#}", "(", ")", "[", "]", ",", ":", "'", "1", "\n"),
    *(" if ", " for x in messages ", " endif ", " endfor ", " else ", " set x = ", " macro m(x) ", " endmacro "),
    *(" generation ", " endgeneration ", " filter tojson ", " endfilter ", " raw ", " endraw "),
    *(" messages ", " x ", "[0]", "[-1:]", ".content", ".__class__", ".append(1)", " self ", " super() "),
    *("|tojson", "|join", "|length", "|attr('x')", "|map(attribute='role')", " + ", " ~ ", " not ", " in "),
    *(" is defined ", " raise_exception('no') ", " namespace(a=1) ", " loop.index ", " caller() ", " range(3) "),
]


@settings(max_examples=200, deadline=None)
@given(source=st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)))
def test_any_source_either_renders_to_text_or_ends_in_template_failed_error(source: str) -> None:
    try:
        text = render(source)
    except TemplateFailedError:
        return
    assert isinstance(text, str)


# --- the sandbox ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ ([''] | map(attribute='__class__') | first).__mro__ }}",
        "{{ ([''] | map('attr', '__class__') | first).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}",
        "{{ ('{0.__class__.__mro__}' | format)(1) }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__code__.co_consts }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ messages.append.__self__.pop() }}",
        "{{ messages.append.__call__(1) }}",
        "{% for x in messages %}{{ loop._iterable.gi_frame }}{{ loop.__class__.__init__ }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set x = namespace() %}{% set x.__class__ = 1 %}{{ x.__class__.__name__ }}",
    ],
)
def test_a_way_out_of_the_sandbox_ends_in_template_failed_error(source: str) -> None:
    with pytest.raises(TemplateFailedError):
        render(source)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "messages.__class__",
        "messages|attr('__class__')",
        "'{0.__class__}'.format(1)",
        "raise_exception.__globals__",
        "strftime_now.__code__",
        "self._TemplateReference__context",
    ],
)
def test_an_unsafe_attribute_has_no_text(expression: str) -> None:
    assert render(f"[{{{{ {expression} }}}}]") == "[]"


@pytest.mark.parametrize("source", ["{{ range(10**9) }}", "{% for i in range(0, 10**7) %}{% endfor %}"])
def test_a_huge_range_is_refused(source: str) -> None:
    with pytest.raises(TemplateFailedError, match="Range too big"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 * [1] }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_takes_for_ever_in_one_step_is_refused(source: str) -> None:
    with pytest.raises(TemplateFailedError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% set r = range(9999) %}{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{% for a in range(999) %}{% call f() %}{% endcall %}{% endfor %}",
        "{% for a in [[1]] recursive %}{% for b in range(999) %}{% endfor %}{{ loop(a) if a is iterable }}{% endfor %}",
        "{% for a in range(99) %}{% block b scoped %}{% for c in range(99) %}{% endfor %}{% endblock %}{% endfor %}",
    ],
)
def test_a_template_has_only_so_many_steps(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4trio.chat.template._MAX_STEPS", 1000)
    with pytest.raises(TemplateFailedError, match="loops for too long"):
        render(source)


def test_each_rendering_has_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4trio.chat.template._MAX_STEPS", 1000)
    template = ChatTemplate("{% for a in range(900) %}{% endfor %}done")
    assert [template.render([USER]) for _ in range(3)] == ["done"] * 3


@pytest.mark.parametrize("error", [KeyError("gone"), KeyboardInterrupt(), TemplateFailedError("mine")])
def test_a_rendering_is_given_up_when_its_check_says_so(error: BaseException) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 5:
            raise error

    template = ChatTemplate("{% for a in range(99999) %}{% endfor %}{{ check }}")
    with pytest.raises(type(error)) as caught:
        template.render([USER], check)
    assert caught.value is error
    assert checks == 5
    assert template.render([USER], check, check="a variable") == "a variable"
    assert checks >= 10


def test_a_template_writes_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4trio.chat.template._MAX_CHARACTERS", 1000)
    assert len(render("{% for a in range(9) %}{{ 'x' * 100 }}{% endfor %}")) == 900
    with pytest.raises(TemplateFailedError, match="too much text"):
        render("{% for a in range(99) %}{{ 'x' * 100 }}{% endfor %}")


def test_sums_that_real_templates_do_are_allowed() -> None:
    assert render("{{ 2 ** 10 }} {{ '=' * 3 }} {{ 1.5 * 2 }} {{ [1] * 2 }} {{ 2 * 3 }}") == "1024 === 3.0 [1, 1] 6"


def test_a_template_cannot_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SECRET_OF_THE_TEST", "hunter2")
    with pytest.raises(TemplateFailedError) as caught:
        render("{{ cycler.__init__.__globals__.os.environ['SECRET_OF_THE_TEST'] }}")
    assert "hunter2" not in str(caught.value)


# --- nothing stays behind ---------------------------------------------------------------------------------------------


def test_a_template_may_append_to_the_messages_and_the_next_rendering_does_not_see_it() -> None:
    template = ChatTemplate("{{ messages.append('more') or '' }}{{ messages | length }}")
    messages = [USER]
    assert [template.render(messages) for _ in range(2)] == ["2", "2"]
    assert messages == [USER]


def test_a_template_may_change_a_message_and_the_next_rendering_does_not_see_it() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ messages[0].update({'content': 'changed'}) or '' }}")
    message = {"role": "user", "content": "hi"}
    assert [template.render([message]) for _ in range(2)] == ["hi", "hi"]
    assert message == {"role": "user", "content": "hi"}


def test_a_template_may_append_to_what_a_message_carries_and_the_next_rendering_does_not_see_it() -> None:
    template = ChatTemplate("{% set calls = messages[0].tool_calls %}{{ calls.append(1) or '' }}{{ calls | length }}")
    message = {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1"}]}
    assert [template.render([message]) for _ in range(2)] == ["2", "2"]
    assert message == {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1"}]}


def test_a_template_may_append_to_a_variable_and_the_next_rendering_does_not_see_it() -> None:
    template = ChatTemplate("{{ tools.append(1) or '' }}{{ tools | length }}")
    tools = [{"name": "read"}]
    assert [template.render([USER], tools=tools) for _ in range(2)] == ["2", "2"]
    assert tools == [{"name": "read"}]


def test_what_a_template_sets_is_gone_in_the_next_rendering() -> None:
    template = ChatTemplate("{{ seen is defined }}{% set seen = true %}{% set raise_exception = 1 %}")
    assert [template.render([USER]) for _ in range(2)] == ["False", "False"]
    assert render("{{ raise_exception is callable }}") == "True"
