"""Rendering a model's chat template, which is code that came with a download and is treated as such.

Jinja's `SandboxedEnvironment`, not the immutable one: Kimi-K2's template appends to a list, so templates get values
that were made for this one rendering instead. Names and filters are those that Hugging Face's and llama.cpp's engines
give to templates. CVE-2024-34359 was this very template rendered outside a sandbox.

The sandbox keeps a template in, but lets it loop for ever. So the compiler puts a step at the head of every loop's and
every macro's body, and a rendering has only so many; powers and repetitions, which do much in one step, have bounds of
their own, and so has the text. What is not bounded is memory within one step: doubling a string thirty times is legal
Jinja. The worst such a template does is to end its own process.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, MacroRef
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

__all__ = ["ChatTemplate", "TemplateFailedError", "go_on"]

# The longest loops are those of templates that look at all messages again for each message: Gemma 4 takes 4 million
# steps for 2,000 messages. This many take a second when they do nothing, 45 s when each calls a macro.
_MAX_STEPS = 20_000_000
# Up to 25 ms, where each calls a macro.
_STEPS_PER_CHECK = 10_000
_MAX_CHARACTERS = 64 * 1024 * 1024
_MAX_REPETITION = 1_000_000
_MAX_BITS = 4096


class TemplateFailedError(Exception):
    """The template refused the conversation or is broken; the message is the template's own."""


class _GivenUpError(Exception):
    """Carries what a check raised through the template."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's text for training; here it is passed through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a mutable set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def go_on() -> None:
    """A check that never gives up."""


def _steps(check: Callable[[], None]) -> Iterator[None]:
    for left in range(_MAX_STEPS, 0, -_STEPS_PER_CHECK):
        try:
            check()
        except Exception as reason:
            raise _GivenUpError(reason) from None
        yield from repeat(None, min(left, _STEPS_PER_CHECK))
    raise TemplateFailedError("the chat template loops for too long")


class _CountingContext(Context):
    """The names of one rendering, and the steps that it has left."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = _steps(go_on)

    def derived(self, locals: dict[str, Any] | None = None) -> "_CountingContext":
        context = super().derived(locals)
        assert isinstance(context, _CountingContext)
        context.steps = self.steps
        return context


class _CountingGenerator(CodeGenerator):
    """Compiles a step into the bodies of loops and macros: nothing else in Jinja can go on for ever."""

    _STEP = nodes.ExprStmt(nodes.Const("step"))

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - jinja2's name
        node.body.insert(0, self._STEP)
        super().visit_For(node, frame)

    def macro_body(self, node: nodes.Macro | nodes.CallBlock, frame: Frame) -> tuple[Frame, MacroRef]:
        node.body.insert(0, self._STEP)
        return super().macro_body(node, frame)

    def visit_ExprStmt(self, node: nodes.ExprStmt, frame: Frame) -> None:  # noqa: N802 - jinja2's name
        if node is self._STEP:
            self.writeline("next(context.steps)")
        else:
            super().visit_ExprStmt(node, frame)


class _Environment(SandboxedEnvironment):
    """The sandbox, with bounds on what takes long without being a loop."""

    intercepted_binops = frozenset(("*", "**"))
    code_generator_class = _CountingGenerator
    context_class = _CountingContext

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MAX_BITS:
                raise TemplateFailedError("the chat template computes a number that is too large")
        elif operator == "*" and _length_of_product(left, right) > _MAX_REPETITION:
            raise TemplateFailedError("the chat template repeats something too often")
        return super().call_binop(context, operator, left, right)


def _length_of_product(left: object, right: object) -> int:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(times, int):
            return len(sequence) * times
    return 0


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=list,
    )


def _raise_exception(message: object) -> NoReturn:
    raise TemplateFailedError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


class ChatTemplate:
    """A compiled template. Rendering takes about 0.4 ms, but the source is a stranger's: render in a thread.

    ``source`` is Jinja; ``bos_token`` and ``eos_token`` are the texts that it may refer to. Raises
    `TemplateFailedError` for source that is no Jinja.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
        )
        environment.filters["tojson"] = _tojson
        environment.filters["from_json"] = json.loads
        environment.filters["safe"] = str
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # a stranger's source: the compiler fails on it in many ways
            raise TemplateFailedError(f"the chat template is not valid Jinja: {error}") from None

    def render(
        self, messages: Sequence[Mapping[str, Any]], check: Callable[[], None] = go_on, /, **variables: object
    ) -> str:
        """The conversation as text, up to where the next assistant turn begins (``add_generation_prompt``, true).

        ``messages`` are dicts in the shape of OpenAI's chat messages; the template gets copies. ``variables`` are
        further names for the template, ``tools`` among them; ``datetime`` is today's date unless given. ``check`` is
        called every 10,000 steps and may raise to give up. The text can be encoded as UTF-8. Raises
        `TemplateFailedError` with the template's own message, or what ``check`` raises, never anything else.
        """
        names: dict[str, object] = {
            **self._tokens,
            # Templates that use it have it in the system message: a time of day would make every prompt a new one.
            "datetime": _strftime_now("%b %d %Y"),
            "add_generation_prompt": True,
        }
        try:
            names.update(copy.deepcopy(variables), messages=copy.deepcopy(list(messages)))
            context = self._template.new_context(names)
            assert isinstance(context, _CountingContext)
            context.steps = _steps(check)
            pieces = []
            characters = 0
            for piece in self._template.root_render_func(context):
                pieces.append(piece)
                characters += len(piece)
                if characters > _MAX_CHARACTERS:
                    raise TemplateFailedError("the chat template writes too much text")
            return "".join(pieces).encode("utf-8", "replace").decode()
        except TemplateFailedError:
            raise
        except _GivenUpError as given_up:
            raise given_up.reason from None
        except Exception as error:  # a template is a program: it can fail in every way that one can
            raise TemplateFailedError(f"{type(error).__name__}: {error}") from None
