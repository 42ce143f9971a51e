"""What is measured of a server that does everything wrong: one at a time, on for nobody, silent, forgetful."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial

import h11
import pytest
import trio

from ds4trio.probe import Target, measures
from ds4trio.testing import silence_of

RATE = 4000
"""Bytes of a request's body that it computes in a second."""
WORD = b'data: {"choices":[{"delta":{"content":"word "}}]}\n\n'


@asynccontextmanager
async def bad_server() -> AsyncGenerator[Target, None]:
    computing = trio.Lock()

    async def serve(stream: trio.SocketStream) -> None:
        connection, size = h11.Connection(h11.SERVER), 0
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65536))
            elif isinstance(event, h11.Data):
                size += len(event.data)
            elif isinstance(event, h11.ConnectionClosed):
                return
        headers = [("content-type", "text/event-stream"), ("connection", "close")]
        async with computing:
            await trio.sleep(size / RATE)
            answer = connection.send(h11.Response(status_code=200, headers=headers)) or b""
            answer += connection.send(h11.Data(data=2 * WORD)) or b""
            answer += connection.send(h11.EndOfMessage()) or b""
            with suppress(trio.BrokenResourceError):
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield Target(host="127.0.0.1", port=listeners[0].socket.getsockname()[1], model="m")
        nursery.cancel_scope.cancel()


def seconds(target: Target, prompt: str) -> float:
    return len(str(target._body(prompt, 16))) / RATE


async def test_the_time_that_it_computes_for_one_who_has_left_is_seen() -> None:
    prompt = measures.long_prompt(800)
    async with bad_server() as target:
        whole = await measures.first_token(target.ask, prompt)
        late = await measures.after_cancel(target.ask, prompt, stay=0.4 * whole)
    assert whole == pytest.approx(seconds(target, prompt), rel=0.3)
    assert late == pytest.approx(0.6 * whole, rel=0.3)


async def test_it_never_answers_a_client_with_a_deadline() -> None:
    async with bad_server() as target:
        prompt = measures.long_prompt(300)
        whole = await measures.first_token(target.ask, prompt)
        assert await measures.with_deadline(target.ask, prompt, patience=0.4 * whole, tries=3) is None
        # One with more patience than a prefill, behind what was computed for those who left, is.
        answered = await measures.with_deadline(target.ask, prompt, patience=6 * whole, tries=3)
    assert answered is not None
    assert answered[0] == 1


async def test_it_is_silent_for_as_long_as_all_others_take() -> None:
    async with bad_server() as target:
        client = await measures.behind_others(target.ask, others=3, tokens=200)
    silence = silence_of(client)
    assert silence.bytes.seconds == pytest.approx(4 * seconds(target, measures.long_prompt(200)) - 0.3, rel=0.3)
    assert silence.bytes.phase == "prefill", "it did not say that anybody waits"
