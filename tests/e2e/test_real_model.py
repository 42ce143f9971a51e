"""The real process, the real model, real bytes: what a client hears and what the machine does."""

import json
import os
import random
import re
import signal
import sys
from contextlib import suppress

import h11
import httpx2
import openai
import pytest
import trio
from openai.types.chat import ChatCompletionUserMessageParam

from ds4trio.testing import ServerProcess, chat_body, fresh_prompt, open_client, run_server

pytestmark = pytest.mark.slow

FREED = r"cancelled in {} \(prefill (\d+)/\d+, output \d+\): the client has gone"


async def health(server: ServerProcess) -> dict[str, object]:
    async with open_client(server.port, method="GET", path="/health") as client:
        answer = json.loads(await client.read_all())
    assert isinstance(answer, dict)
    return answer


async def wait_until_idle(server: ServerProcess) -> None:
    await wait_for_running(server, 0)


async def wait_for_running(server: ServerProcess, count: int) -> None:
    """Poll: the server has no event that a client could wait for."""
    with trio.fail_after(20):
        while await health(server) != {"status": "ok", "running": count, "waiting": 0}:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_real_prefill_is_never_silent() -> None:
    async with (
        run_server("--heartbeat-interval", "1") as server,
        open_client(server.port, chat_body(fresh_prompt(2500), max_tokens=4)) as client,
    ):
        await client.read_all()
    assert client.status == 200
    assert client.arrivals[0].at < 1
    assert client.longest_silence < 1.5
    assert len(client.times_of_beats) >= 1
    assert re.search(rb": prefill \d+/2\d\d\d \(\d+\.\d%\) \d+ t/s eta \d+s\n\n", client.body)
    assert client.body.endswith(b"data: [DONE]\n\n")


async def test_cancelled_prefill_frees_the_machine_and_its_retry_goes_on(server: ServerProcess) -> None:
    body = chat_body(fresh_prompt(2500), max_tokens=1, stream_options={"include_usage": True})
    async with open_client(server.port, body) as client:
        await server.wait_log(r"prefill chunk \d{3,}/")
        await client.read()
    line = await server.wait_log(FREED.format("prefill"))
    done = re.search(r"prefill (\d+)/", line.text)
    assert done is not None
    assert int(done[1]) >= 100
    with trio.fail_after(3):
        async with open_client(server.port, chat_body("Hello!", max_tokens=2)) as short:
            assert b"[DONE]" in await short.read_all()
    async with open_client(server.port, body) as retry:
        await retry.read_all()
    assert f'"cached_tokens":{done[1]}'.encode() in retry.body


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_during_decode_frees_the_machine(server: ServerProcess, stream: bool) -> None:
    said = len(server.log)
    body = chat_body(f"Tell me a long story. {fresh_prompt(5)}", temperature=0, ignore_eos=True, stream=stream)
    async with open_client(server.port, body) as client:
        await server.wait_log(r"prefill chunk (\d+)/\1 ", after=said)
        if stream:
            await client.read_until(b'"content":" ')
    await server.wait_log(FREED.format("decode"), after=said)


async def test_500_rude_clients_leak_nothing(server: ServerProcess) -> None:
    async def one(seconds: float, way: str, stream: bool, tokens: int) -> None:
        body = chat_body(fresh_prompt(tokens), stream=stream, max_tokens=20)
        async with open_client(server.port, body) as client:
            with trio.move_on_after(seconds):
                await client.read_all()
            if way == "reset":
                client.reset()
            elif way == "half_close":
                await client.half_close()
                with trio.move_on_after(0.05), suppress(h11.RemoteProtocolError):
                    await client.read_all()

    async def cycles(count: int) -> None:
        limit = trio.CapacityLimiter(12)
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                await limit.acquire_on_behalf_of(token := object())

                async def bounded(token: object = token) -> None:
                    try:
                        await one(
                            random.expovariate(1 / 0.15),
                            random.choice(["close", "reset", "half_close"]),
                            random.random() < 0.7,
                            random.choice([50, 60, 300, 1500]),
                        )
                    finally:
                        limit.release_on_behalf_of(token)

                nursery.start_soon(bounded)

    question = chat_body("What is the capital of France?", stream=False, temperature=0, max_tokens=12, seed=1)

    async def answer() -> str:
        async with open_client(server.port, question) as client:
            return str(json.loads(await client.read_all())["choices"][0]["message"]["content"])

    def held() -> tuple[int, int]:
        return server.open_descriptors(), server.threads()

    before_answer = await answer()
    await trio.sleep(16)  # Trio's idle threads (10 s) and Hypercorn's idle connections (15 s) are gone
    before = held()
    await cycles(500)
    await wait_until_idle(server)
    with trio.move_on_after(30):
        while held() != before:  # noqa: ASYNC110 - another process
            await trio.sleep(0.5)
    assert held() == before
    # Chunks of other sizes move the logits a little, so only the beginnings are compared.
    assert (await answer())[:8] == before_answer[:8]
    # Every sequence can still be used at once: none was lost.
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(hold, server, f"{number} " + fresh_prompt(400))
        await wait_for_running(server, 4)
    assert "Traceback" not in server.log_text


async def hold(server: ServerProcess, prompt: str) -> None:
    async with open_client(server.port, chat_body(prompt, max_tokens=2)) as client:
        assert b"[DONE]" in await client.read_all()


async def test_openai_sdk_streams_and_does_not(server: ServerProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none") as client:
        (model,) = [model.id async for model in client.models.list()]
        question: ChatCompletionUserMessageParam = {"role": "user", "content": "Name three fruits."}
        whole = await client.chat.completions.create(
            model=model,
            messages=[question],
            temperature=0,
            max_tokens=16,
        )
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert 1 <= whole.usage.completion_tokens <= 16

        async def stream() -> str:
            chunks = await client.chat.completions.create(
                model=model,
                messages=[question],
                temperature=0,
                max_tokens=16,
                stream=True,
                stream_options={"include_usage": True},
            )
            texts, usage = [], None
            async for chunk in chunks:
                usage = chunk.usage or usage
                texts += [choice.delta.content or "" for choice in chunk.choices]
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            return "".join(texts)

        texts: list[str] = []

        async def collect() -> None:
            texts.append(await stream())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            nursery.start_soon(collect)
        assert len(texts) == 2
        assert all(texts)

        with pytest.raises(openai.NotFoundError, match="does not exist; this server has"):
            await client.chat.completions.create(model="gpt-9", messages=[question])
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a " * 20_000}])
        assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_shutdown_tells_every_stream_and_exits_in_its_grace(signal_number: signal.Signals) -> None:
    async with (
        run_server("--shutdown-grace", "2", "--parallel", "1") as server,
        open_client(server.port, chat_body(fresh_prompt(2500))) as running,
    ):
        await running.read()
        async with open_client(server.port, chat_body("Hello!")) as queued:
            await queued.read()
            os.kill(server.pid, signal_number)
            with trio.fail_after(2.5):
                await queued.read_all()
                await running.read_all()
                await server.process.wait()
    for client in (running, queued):
        assert b"the server is shutting down" in client.body
        assert client.body.endswith(b"data: [DONE]\n\n")
    assert server.process.returncode == 0
    assert "Traceback" not in server.log_text


async def test_plain_hypercorn_serves_and_says_goodbye() -> None:
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "ds4trio.asgi:app"]
    ready = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")
    async with run_server(command=command, ready=ready, environment={"DS4TRIO_PARALLEL": "2"}) as server:
        await wait_until_idle(server)
        async with open_client(server.port, chat_body("Hello!", max_tokens=4)) as client:
            assert b"[DONE]" in await client.read_all()
        async with open_client(server.port, chat_body(fresh_prompt(2500))) as client:
            await client.read()
            os.kill(server.pid, signal.SIGTERM)
            with trio.fail_after(8):
                await client.read_all()
        assert b"the server is shutting down" in client.body


async def test_port_is_open_and_honest_while_the_model_loads() -> None:
    ready = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
    async with (
        run_server(ready=ready) as server,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        await client.get("/health")  # whatever it says, it answers
        await server.wait_log("try:")
        assert (await client.get("/health")).json() == {"status": "ok", "running": 0, "waiting": 0}
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model
        assert model["context_length"] == 8192
