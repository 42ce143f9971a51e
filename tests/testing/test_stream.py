"""How long there was silence, in answers that are written down here and in those of the application."""

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.testing import Arrival, AsgiCall, StartApp, Stream, call_asgi, chat_body, gaps, silence_of


class Written(Stream):
    """An answer that is known as a whole."""

    async def wait_for_headers(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_for_arrivals(self, *, more_than: int) -> None:
        await trio.lowlevel.checkpoint()

    def leave(self) -> None:
        self._over()


def written(*arrivals: tuple[float, bytes], over: float, headers: float | None = None) -> Stream:
    stream = Written()
    stream.arrivals = [Arrival(at, data) for at, data in arrivals]
    stream.started_at, stream.over_at = headers, over
    return stream


EMPTY = b'data: {"choices":[{"delta":{}}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'


async def test_bytes_and_events_are_two_kinds_of_silence() -> None:
    stream = written((1, EMPTY), (6, b": prefill\n\n"), (11, b": prefill\n\n"), (13, TEXT), over=13)
    silence = silence_of(stream)
    assert (silence.bytes.seconds, silence.bytes.since, silence.bytes.phase) == (5, 1, "prefill")
    assert (silence.events.seconds, silence.events.since, silence.events.phase) == (12, 1, "prefill")


async def test_the_phase_is_the_one_in_which_nothing_was_heard() -> None:
    stream = written(
        (0, EMPTY),
        (5, b": queued 2/3\n\n"),
        (10, b": queued 1/3\n\n"),
        (18, b": prefill\n\n"),
        (20, TEXT),
        (21, TEXT),
        over=30,
    )
    assert [(gap.seconds, gap.phase) for gap in gaps(stream, "bytes")] == [
        (0, "prefill"),
        (5, "queue"),
        (5, "queue"),
        (8, "queue"),
        (2, "prefill"),
        (1, "decode"),
        (9, "decode"),
    ]


async def test_headers_are_bytes_but_no_event() -> None:
    stream = written((8, TEXT), over=8, headers=2)
    silence = silence_of(stream)
    assert (silence.bytes.seconds, silence.events.seconds) == (6, 8)


async def test_a_server_that_never_says_anything_is_silent_until_the_client_leaves() -> None:
    assert silence_of(written(over=7)).bytes.seconds == 7
    assert silence_of(written((1, EMPTY), over=7)).events.seconds == 6


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.reasoning_text.delta", "delta": "a"},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "a"}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}},
    ],
)
async def test_what_a_model_writes_is_a_token_in_every_protocol(event: dict[str, object]) -> None:
    assert written((3, b"data: " + msgspec.json.encode(event) + b"\r\n\r\n"), over=3).times_of_tokens == [3]


@pytest.mark.parametrize(
    "event",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": "", "reasoning_content": None}}]},
        {"choices": [None, {"delta": "a"}]},
        {"choices": 7},
        {"type": "response.in_progress", "response": {"usage": None}},
        {"type": "response.output_text.delta", "delta": None},
        {"type": "content_block_delta", "delta": None},
        {"type": "message_delta", "usage": ["a"]},
        {"type": "ping"},
    ],
)
async def test_signs_of_life_are_none(event: dict[str, object]) -> None:
    stream = written((3, b"data: " + msgspec.json.encode(event) + b"\n\n"), over=3)
    assert (stream.times_of_tokens, stream.text, stream.usage, len(stream.events)) == ([], "", {}, 1)


@pytest.mark.parametrize("data", [b'{"id":"\xff"}', b'{"a":' + b"[" * 100_000])
async def test_an_event_that_is_no_json_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        written((1, b"data: " + data + b"\n\n"), over=1).text  # noqa: B018


async def test_usage_is_found_wherever_a_protocol_has_it() -> None:
    stream = written(
        (1, b'data: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":0}}}\n\n'),
        (2, b'data: {"type":"message_delta","usage":{"output_tokens":7}}\n\n'),
        over=2,
    )
    assert stream.usage == {"input_tokens": 5, "output_tokens": 7}
    stream = written((1, b'data: {"type":"response.completed","response":{"usage":{"input_tokens":5}}}\n\n'), over=1)
    assert stream.usage == {"input_tokens": 5}


@given(st.lists(st.integers(1, len(EMPTY + TEXT) - 1), max_size=5, unique=True).map(sorted))
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    async def read() -> list[dict[str, object]]:
        whole, ends = EMPTY + TEXT, [*cuts, len(EMPTY + TEXT)]
        pieces = [whole[start:end] for start, end in zip([0, *cuts], ends, strict=True)]
        return [event.data for event in written(*((0.0, piece) for piece in pieces), over=1).events]

    assert trio.run(read) == [{"choices": [{"delta": {}}]}, {"choices": [{"delta": {"content": "a"}}]}]


async def test_the_application_is_silent_for_a_heartbeat_at_most(
    autojump_clock: MockClock, ds4trio_app: StartApp
) -> None:
    app = await ds4trio_app(SimulatedEngine(parallel=1, prefill_tps=100, decode_tps=0.125, answer_tokens=3))

    async def ask() -> AsgiCall:
        async with call_asgi(app, chat_body("word" * 3000)) as call:
            await call.ended.wait()
        return call

    first: list[AsgiCall] = []
    async with trio.open_nursery() as nursery:

        async def note() -> None:
            first.append(await ask())

        nursery.start_soon(note)
        await trio.sleep(1)
        second = await ask()
    assert {gap.phase for gap in gaps(second, "bytes")} == {"queue", "prefill", "decode"}
    for call in (first[0], second):
        assert silence_of(call).bytes.seconds == pytest.approx(5)
        assert silence_of(call).events.seconds == pytest.approx(5)
