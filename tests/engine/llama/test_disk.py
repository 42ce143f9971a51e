"""KV from the disk, for each kind of memory: the server is another one, the answer is the same, token for token."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ds4trio.engine.llama import LlamaEngine, LlamaOptions, open_llama_engine
from ds4trio.engine.llama.context import ContextOptions
from ds4trio.engine.llama.kv_disk import DiskOptions, fingerprint
from tests.engine.llama.replay import Fresh, Recorder, open_fresh
from tests.engine.llama.test_continuation import deltas, joined
from tests.engine.llama.test_memory_kinds import leave_in_prefill
from tests.engine.llama.test_twelve_turns import MODELS, QUESTIONS, SYSTEM, UBATCH, Conversation

pytestmark = pytest.mark.slow

BLOCK = 256
TEXT = SYSTEM + "Once upon a time there was a fox who lived beside a river and talked to every tree. " * 40


def options_for(path: Path, directory: Path) -> LlamaOptions:
    disk = DiskOptions(directory=directory, space_bytes=2**30, bytes_per_second=1e9, least_tokens=64)
    return LlamaOptions(path=path, threads=1, context_length=4096, parallel=1, ubatch=UBATCH, n_gpu_layers=0, disk=disk)


@asynccontextmanager
async def started(options: LlamaOptions, recorder: Recorder) -> AsyncGenerator[LlamaEngine, None]:
    """A server that stops at the end of the block."""
    async with open_llama_engine(options) as engine:
        yield engine
    recorder.forget()


async def turn(engine: LlamaEngine, conversation: Conversation, recorder: Recorder, fresh: Fresh) -> int:
    """An answer, checked; how many tokens of the prompt were cached."""
    conversation.engine = engine
    told, end = await deltas(engine, conversation.request())
    assert recorder.check(fresh, len(conversation.tokens))
    await conversation.say(joined(told), turn=False)
    return end.usage.cached_tokens


@pytest.mark.parametrize("name", MODELS)
async def test_a_conversation_goes_on_after_a_restart(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = MODELS[name](tmp_path_factory.getbasetemp())
    options, recorder = options_for(path, tmp_path / "kv"), Recorder(monkeypatch)
    with open_fresh(path, ubatch=UBATCH) as fresh:
        async with started(options, recorder) as engine:
            main = Conversation(engine)
            await main.say(TEXT)
            await main.say(QUESTIONS[0])
            await turn(engine, main, recorder, fresh)
        said = len(main.tokens)
        async with started(options, recorder) as engine:
            main.engine = engine
            other = main.branch()
            await main.say(QUESTIONS[1])
            # Where blocks are of use as a whole only, and the last answer's last token was never computed.
            assert await turn(engine, main, recorder, fresh) >= said - 6
            other.tokens, other.turns = main.tokens[:900], []
            await other.say(" And then nothing happened any more.", turn=False)
            await turn(engine, other, recorder, fresh)
        async with started(options, recorder) as engine:
            main.engine = engine
            await main.say(QUESTIONS[2])
            computed = len(main.tokens)
            assert await turn(engine, main, recorder, fresh) > said - 6
            assert len(main.tokens) > computed


@pytest.mark.parametrize("name", MODELS)
async def test_a_prefill_that_was_given_up_goes_on_after_a_restart(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = MODELS[name](tmp_path_factory.getbasetemp())
    options, recorder = options_for(path, tmp_path / "kv"), Recorder(monkeypatch)
    with open_fresh(path, ubatch=UBATCH) as fresh:
        async with started(options, recorder) as engine:
            main = Conversation(engine)
            await main.say(TEXT)
            computed = await leave_in_prefill(engine, main.request(), after=600)
        async with started(options, recorder) as engine:
            cached = await turn(engine, main, recorder, fresh)
    assert cached >= computed - UBATCH - 32


def test_the_fingerprint_is_another_one_for_another_model_or_another_cache(tmp_path: Path) -> None:
    options = ContextOptions(
        context_length=4096, sequences=4, ubatch=64, threads=1, flash_attention="auto", kv_type_k="f16", kv_type_v="f16"
    )

    def identity(name: str, **changed: str | int) -> bytes:
        return fingerprint(tmp_path / name, replace(options, **changed), n_gpu_layers=0)  # type: ignore[arg-type]

    for name in ("one.gguf", "other.gguf", "phi.gguf", "large-00001-of-00002.gguf", "large-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(bytes(20 * 2**20))
    assert identity("one.gguf") == identity("other.gguf", context_length=8192, threads=2)
    assert identity("one.gguf") != identity("one.gguf", kv_type_k="q8_0")
    with (tmp_path / "phi.gguf").open("r+b") as file:
        file.write(b"phi3.rope.scaling.original_context_length")
    assert identity("phi.gguf") != identity("phi.gguf", context_length=8192), "it has other rope factors there"
    split = identity("large-00001-of-00002.gguf")
    for name in ("other.gguf", "large-00002-of-00002.gguf"):
        with (tmp_path / name).open("r+b") as file:
            file.seek(-100, 2)
            file.write(b"another weight")
    assert identity("one.gguf") != identity("other.gguf")
    assert identity("large-00001-of-00002.gguf") != split
