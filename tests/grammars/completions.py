"""The grammar of a Completions stream, as its clients rely on it, checked on the bytes.

stream  = piece (piece | aside | finish)* (usage? | error) [DONE]            comments anywhere
piece   = text of one choice, with ``echo`` its prompt first; the first of all may be empty
aside   = a chunk with an empty text for a choice that still runs, or without choices once all have ended
finish  = a chunk with the choice's finish reason and no text; no chunk names that choice afterwards
"""

from typing import Any

from tests.grammars.chat import openai_chunks

__all__ = ["check_completion_stream"]

FRAME = {"id", "object", "created", "model", "choices", "usage"}
PARALLEL = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def check_completion_stream(body: bytes) -> list[dict[str, Any]]:
    """What each choice comes to. Raises `AssertionError` where the grammar is broken, `ValueError` where JSON is.

    A choice has ``text``, ``finish_reason`` and ``logprobs`` (lists, or None without them); after a stream that failed
    also ``error``.
    """
    chunks, error = openai_chunks(body, kind="text_completion", prefix="cmpl-")
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        further = set(chunk) - FRAME
        match chunk["choices"]:
            case []:
                assert not further
                assert all(choice["finish_reason"] for choice in choices.values()), "asides name one that still runs"
            case [entry]:
                _take(choices, entry, further)
            case _:
                raise AssertionError("one choice a chunk")
    assert sorted(choices) == list(range(len(choices))), "indexes count from 0"
    for choice in choices.values():
        if error is None:
            assert choice["finish_reason"] in {"stop", "length"}, "every choice has its finish reason"
        else:
            choice["error"] = error
    return [choices[index] for index in sorted(choices)]


def _take(choices: dict[int, dict[str, Any]], entry: dict[str, Any], further: set[str]) -> None:
    assert set(entry) == {"index", "text", "logprobs", "finish_reason"}
    choice = choices.setdefault(entry["index"], {"text": "", "finish_reason": None, "logprobs": None})
    assert choice["finish_reason"] is None, "nothing follows the finish reason"
    if entry["finish_reason"] is not None:
        assert (entry["text"], entry["logprobs"]) == ("", None)
        assert further == {"timings"}
        choice["finish_reason"] = entry["finish_reason"]
        return
    assert not further
    choice["text"] += entry["text"]
    if (logprobs := entry["logprobs"]) is not None:
        assert set(logprobs) == set(PARALLEL)
        assert len({len(logprobs[name]) for name in PARALLEL}) == 1, "the lists are parallel"
        so_far = choice["logprobs"] = choice["logprobs"] or {name: [] for name in PARALLEL}
        for name in PARALLEL:
            so_far[name] += logprobs[name]
        assert so_far["text_offset"] == sorted(so_far["text_offset"])
        assert so_far["text_offset"][0] == 0
