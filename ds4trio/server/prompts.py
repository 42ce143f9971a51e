"""From a request body to choices that can be computed. Everything here runs inside `Engine.prepare`, off the loop.

So a long body is parsed, rendered and tokenized in a thread, and whatever is wrong with a request shows before its
status is sent.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ds4trio.api.errors import ContextLengthError, InvalidRequestError
from ds4trio.api.task import RawPrompt, Task
from ds4trio.chat import ChatModel, Conversation, TextReader
from ds4trio.chat.replay import Piece
from ds4trio.chat.turns import TurnMarks, turn_starts
from ds4trio.engine import GenerationRequest, ModelInfo, Sampling, Tokenizer
from ds4trio.server.choices import Choice

__all__ = ["Prepared", "count_tokens", "prepare", "rendered"]

TOOL_NAME = re.compile(r"[\w.\-/:]{1,256}")
# A model cannot choose a token with this bias, whatever its logits are.
NEVER = -1e9


@dataclass(frozen=True, slots=True)
class Prepared:
    """What to compute; ``prompts`` are the texts of raw prompts."""

    choices: Sequence[Choice]
    prompts: tuple[str, ...] = ()


def prepare(task: Task, chat: ChatModel | None, info: ModelInfo, tokenizer: Tokenizer) -> Prepared:
    """Render and tokenize. Blocks. Raises `ApiError` or `TemplateFailedError`."""
    if isinstance(task.prompt, Conversation):
        return Prepared(_conversation(task, task.prompt, _required(chat), info, tokenizer))
    prompts = [_raw(task, index, prompt, info, tokenizer) for index, prompt in enumerate(task.prompt)]
    choices = []
    for _, tokens in prompts:
        limit = _limit(task, len(tokens), info)
        for number in range(task.n):
            request = GenerationRequest(
                prompt=tokens,
                max_tokens=limit,
                sampling=_sampling(task, info.sampling, number),
                stop=task.stop,
                top_logprobs=task.top_logprobs,
                ignore_eos=task.ignore_eos,
                priority=task.priority or 0,
            )
            choices.append(Choice(request, TextReader, engine_stop=True))
    return Prepared(choices, tuple(text for text, _ in prompts))


def count_tokens(task: Task, chat: ChatModel | None, tokenizer: Tokenizer) -> int:
    """How many tokens a conversation has, what the template adds included. Blocks. Raises like `prepare`."""
    assert isinstance(task.prompt, Conversation)
    return len(_tokenized(_required(chat).pieces(task.prompt, check=tokenizer.check), tokenizer))


def rendered(task: Task, chat: ChatModel | None) -> str:
    """The text that the template makes of a conversation. Blocks. Raises like `prepare`."""
    assert isinstance(task.prompt, Conversation)
    return _required(chat).render(task.prompt)


def _conversation(
    task: Task, conversation: Conversation, chat: ChatModel, info: ModelInfo, tokenizer: Tokenizer
) -> list[Choice]:
    _check_tool_names(conversation)
    prompt = chat.prompt(conversation, check=tokenizer.check)
    tokens = _tokenized(prompt.pieces, tokenizer)
    if not tokens:
        raise InvalidRequestError("the chat template makes an empty prompt of these messages", param="messages")
    limit = _limit(task, len(tokens), info)
    turns = _turns(prompt.turns, tokens, tokenizer)
    choices = []
    for number in range(task.n):
        sampling = _sampling(task, info.sampling, number)
        if prompt.banned:
            banned = dict.fromkeys(prompt.banned, NEVER)
            sampling = replace(sampling, logit_bias={**sampling.logit_bias, **banned})
        request = GenerationRequest(
            prompt=tokens,
            max_tokens=limit,
            sampling=sampling,
            stop=prompt.stop,
            markers=prompt.markers,
            grammar=prompt.grammar,
            guide=prompt.guide(),
            top_logprobs=task.top_logprobs,
            ignore_eos=task.ignore_eos,
            priority=task.priority or 0,
            turns=turns,
        )
        single = not conversation.parallel_tool_calls
        choices.append(Choice(request, prompt.reader, stop=task.stop, single_call=single, remember=prompt.remember))
    return choices


def _tokenized(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[int]:
    """A prompt is cut where a message spells a control token, so that it is none, and where ids are known already."""
    tokens: list[int] = []
    for number, piece in enumerate(pieces):
        tokens += tokenizer.tokenize(piece, add_special=number == 0) if isinstance(piece, str) else piece
    return tokens


def _turns(marks: TurnMarks, tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    user, answer = (tokenizer.tokenize(mark, add_special=False) for mark in (marks.user, marks.answer))
    return turn_starts(tokens, user=user, answer=answer)


def _check_tool_names(conversation: Conversation) -> None:
    """The vendors' own APIs allow less; what is allowed here, every dialect can write and read."""
    for tool in conversation.tools:
        if not TOOL_NAME.fullmatch(tool.name):
            raise InvalidRequestError(
                f"the tool name {tool.name[:40]!a} cannot be called: names are 1 to 256 letters, digits, or _ - . / :",
                code="invalid_value",
                param="tools",
            )


def _raw(task: Task, index: int, prompt: RawPrompt, info: ModelInfo, tokenizer: Tokenizer) -> tuple[str, list[int]]:
    if isinstance(prompt, str):
        return prompt, tokenizer.tokenize(prompt)
    _limit(task, len(prompt), info)  # before millions of ids are spelled out
    try:
        pieces = tokenizer.pieces(prompt)
    except ValueError:
        raise InvalidRequestError(
            f"$.prompt[{index}]: this model's token ids are 0 to {info.vocabulary_size - 1}",
            code="invalid_value",
            param=f"$.prompt[{index}]",
        ) from None
    return b"".join(pieces).decode(errors="replace"), list(prompt)


def _sampling(task: Task, defaults: Sampling, number: int) -> Sampling:
    """The model's defaults with what the client asked for; each choice draws with a seed of its own."""
    overrides: dict[str, Any] = dict(task.overrides)
    if "seed" in overrides:
        overrides["seed"] += number
    return replace(defaults, **overrides)


def _limit(task: Task, prompt_tokens: int, info: ModelInfo) -> int:
    room = info.context_length - prompt_tokens
    if room < 1:
        raise ContextLengthError(prompt_tokens, info.context_length, param=task.prompt_member)
    return min(room, task.max_tokens or room)


def _required(chat: ChatModel | None) -> ChatModel:
    if chat is None:
        raise InvalidRequestError(
            "the model has no chat template; use /v1/completions, or start the server with --chat-template FILE",
            code="no_chat_template",
        )
    return chat
