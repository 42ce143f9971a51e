"""Ways of a model into a server: from the Hub, in parts, with an adapter. Real processes, real answers."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from ds4trio.config import demo_model
from ds4trio.testing import ServerProcess, chat_body, open_client, run_server
from tests.gguf_files import split_model, write_lora
from tests.hub.fake_hub import serving_hub

pytestmark = pytest.mark.slow

QUESTION = chat_body("What is the capital of France?", temperature=0, max_tokens=12)
LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
SMALL = ("--ctx", "1024", "--threads", "1")


@pytest.fixture(scope="session")
def model() -> Path:
    path = demo_model()
    assert path is not None, "the test extra brings the demo model"
    return path


@pytest.fixture(scope="session")
def parts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = split_model(model, tmp_path_factory.mktemp("parts"), parts=3, name="Small-Q4_K_M")
    assert [part.name for part in made] == [f"Small-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    return made


async def answer(server: ServerProcess) -> str:
    async with open_client(server.port, QUESTION) as client:
        await client.read_all()
    return client.text


@pytest.fixture
async def expected(model: Path) -> str:
    """What the model says as it is; of two tokens that are equally likely other machines may take the other one."""
    async with run_server("--model", str(model), *SMALL) as server:
        return await answer(server)


async def get(server: ServerProcess, path: str) -> tuple[int | None, Any]:
    async with open_client(server.port, method="GET", path=path) as client:
        await client.read_all()
    return client.status, json.loads(client.body)


async def test_any_part_of_a_split_model_is_enough_to_serve_it(parts: list[Path], expected: str) -> None:
    async with run_server("--model", str(parts[1]), *SMALL) as server:
        assert await answer(server) == expected
        assert (await get(server, "/v1/models"))[1]["data"][0]["id"] == "Small-Q4_K_M"
        assert (await get(server, "/props"))[1]["model_path"] == str(parts[0])


async def test_a_model_comes_from_the_hub_and_again_from_the_cache(
    parts: list[Path], expected: str, tmp_path: Path
) -> None:
    with serving_hub({"org/Small-GGUF": {part.name: part for part in parts}}) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        async with run_server("--hf", "org/Small-GGUF", *SMALL, environment=environment) as server:
            assert await answer(server) == expected
            assert (await get(server, "/v1/models"))[1]["data"][0]["id"] == "org/Small-GGUF"
            assert "downloading org/Small-GGUF: " in server.log_text
    async with run_server("--hf", "org/Small-GGUF", *SMALL, environment=environment) as server:
        assert await answer(server) == expected
        assert "what is in the cache is used" in server.log_text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_while_a_model_is_downloaded_the_server_says_so_and_can_be_stopped(
    number: signal.Signals, model: Path, tmp_path: Path
) -> None:
    with serving_hub({"org/small": {"small.gguf": model}}) as hub:
        hub.stop_after = 45 * 2**20
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        async with run_server("--hf", "org/small", environment=environment, ready=LISTENING) as server:
            with trio.fail_after(60):
                while (health := await get(server, "/health"))[1]["loaded"] < 0.4:
                    assert health[0] == 503
                    await trio.sleep(0.05)
            assert "the model is being downloaded (43%)" in health[1]["message"]
            async with open_client(server.port, {**QUESTION, "stream": False}) as client:
                await client.read_all()
            assert (client.status, "retry-after" in client.headers) == (503, True)
            server.process.send_signal(number)
            with trio.fail_after(8):
                assert await server.process.wait() == 0
    assert "Traceback" not in server.log_text
    assert not list(tmp_path.rglob("*.incomplete"))  # noqa: ASYNC240 - nothing else runs


async def test_a_model_that_cannot_be_had_ends_the_server_with_status_1_and_the_reason(tmp_path: Path) -> None:
    with serving_hub({}) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        async with run_server("--hf", "org/small", environment=environment, ready=LISTENING) as server:
            with trio.fail_after(60):
                assert await server.process.wait() == 1
                await server.wait_log(f"there is no {hub.url}/org/small, or it is private")
    assert "Traceback" not in server.log_text


async def test_a_server_says_which_adapters_it_uses(model: Path, expected: str, tmp_path: Path) -> None:
    lora = write_lora(model, tmp_path / "noise.gguf")
    flags = ("--lora", str(lora), "--lora", f"{lora}=-0.5")
    async with run_server(*flags, *SMALL) as server:
        assert await answer(server) != expected
        assert (await get(server, "/props"))[1]["lora_adapters"] == [
            {"id": 0, "path": str(lora), "scale": 1.0},
            {"id": 1, "path": str(lora), "scale": -0.5},
        ]


async def test_what_is_kept_on_disk_is_not_taken_for_another_adapter(model: Path, tmp_path: Path) -> None:
    lora = write_lora(model, tmp_path / "noise.gguf")
    kept = ("--kv-disk", "--kv-disk-dir", str(tmp_path / "kv"), "--kv-cache-min-tokens", "100")
    body = chat_body("the river ran past the green table " * 38, temperature=0, max_tokens=4)
    cached = []
    for flags in (("--lora", str(lora)), ("--lora", str(lora)), ("--lora", f"{lora}=0.5")):
        async with run_server(*kept, *flags, *SMALL) as server:
            async with open_client(server.port, {**body, "stream_options": {"include_usage": True}}) as client:
                await client.read_all()
            cached.append(client.usage["prompt_tokens_details"]["cached_tokens"] >= 256)
    assert cached == [False, True, False]
