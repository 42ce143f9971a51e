"""Real downloads from a Hub on this machine: progress, a broken connection, the cache, and every way to be refused."""

import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ds4trio.config import ConfigError
from ds4trio.hub import HubError, HubModel
from tests.hub.fake_hub import FakeHub, serving_hub

pytestmark = pytest.mark.slow

REPO = "org/small-GGUF"
# More than two of the pieces in which huggingface-hub writes files and tells the progress.
SIZE = 25 * 2**20


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("repository")
    names = ["small-Q4_K_M.gguf", *(f"small-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)), "README.md"]
    for number, name in enumerate(names):
        (directory / name).write_bytes(bytes([number]) * SIZE)
    return {name: directory / name for name in names}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


@pytest.fixture
def hub(files: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving_hub({REPO: files}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


async def download(reference: str = REPO) -> tuple[Path, list[float]]:
    heard: list[float] = []
    with trio.fail_after(60):
        return await HubModel.parse(reference).download(heard.append), heard


async def refused(reference: str = REPO) -> str:
    with pytest.raises(HubError) as caught:
        await download(reference)
    return str(caught.value)


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob("*.incomplete"))


async def test_a_model_is_downloaded_once_and_its_progress_told(hub: FakeHub, files: dict[str, Path]) -> None:
    path, heard = await download()
    assert path.name == "small-Q4_K_M.gguf"
    assert path.read_bytes() == files[path.name].read_bytes()
    assert heard == sorted(heard)
    assert len(heard) > 2
    assert (heard[0], heard[-1]) == (0, 1)
    asked = len(hub.asked)
    assert await download() == (path, [])
    assert not [line for line in hub.asked[asked:] if line.startswith("GET /org")]
    assert not [line for line in hub.asked if "harness" in line], "this is none of the Hub's business"


@pytest.mark.parametrize("wanted", ["Q8_0", "small-Q8_0-00002-of-00002.gguf"])
async def test_all_parts_of_a_split_model_come(wanted: str, hub: FakeHub, files: dict[str, Path]) -> None:
    path, heard = await download(f"{REPO}:{wanted}")
    assert path.name == "small-Q8_0-00001-of-00002.gguf"
    other = path.with_name("small-Q8_0-00002-of-00002.gguf")
    assert other.read_bytes() == files[other.name].read_bytes()
    assert heard == sorted(heard)
    assert 0.5 in heard
    assert heard[-1] == 1


async def test_a_connection_that_breaks_costs_no_more_than_a_piece(hub: FakeHub, files: dict[str, Path]) -> None:
    hub.cut_after = 15 * 2**20
    path, heard = await download()
    assert path.read_bytes() == files[path.name].read_bytes()
    assert hub.asked[-1] == f"GET /{REPO}/resolve/main/small-Q4_K_M.gguf from {10 * 2**20}"
    assert heard == sorted(heard)


async def test_a_download_that_is_given_up_ends_at_once_and_leaves_nothing_half_done(hub: FakeHub, cache: Path) -> None:
    hub.stop_after = 15 * 2**20
    given_up: list[float] = []
    with trio.fail_after(60), trio.CancelScope() as scope:

        def give_up(fraction: float) -> None:
            if fraction > 0.3:
                assert leftovers(cache)
                given_up.append(trio.current_time())
                scope.cancel()

        await HubModel.parse(REPO).download(give_up)
    assert scope.cancelled_caught
    assert trio.current_time() - given_up[0] < 4, "after five seconds it would have been killed"
    assert not leftovers(cache)


@pytest.mark.parametrize("how", ["offline", "nobody listens", "status 503"])
async def test_without_the_hub_the_cache_is_enough(
    how: str, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = await download()
    switch_off(how, hub, monkeypatch)
    assert await download() == (path, [])
    assert await download(f"{REPO}:Q4_K_M") == (path, [])
    assert "what is in the cache is used" in caplog.text
    assert REPO in await refused(f"{REPO}:Q8_0")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("offline", "HF_HUB_OFFLINE is set, and the cache {cache} has no such model"),
        ("nobody listens", "cannot be reached"),
        ("status 503", "status 503"),
    ],
)
async def test_without_the_hub_and_the_cache_it_says_what_to_do(
    how: str, message: str, hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch_off(how, hub, monkeypatch)
    assert message.format(cache=cache) in await refused()


def switch_off(how: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    match how:
        case "offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        case "nobody listens":
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = taken.getsockname()[1]
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        case _:
            hub.broken = True


async def test_a_repository_that_is_not_there_is_named(hub: FakeHub) -> None:
    message = await refused("org/other")
    assert f"there is no {hub.url}/org/other, or it is private" in message
    assert "HF_TOKEN" in message


@pytest.mark.parametrize("repo", ["a--b/c", "a/.b", "a/b..c"])
async def test_a_name_that_no_repository_can_have_is_refused(repo: str, hub: FakeHub) -> None:
    assert f"{repo} is no name of a repository" in await refused(repo)


async def test_something_that_is_no_hub_is_not_mistaken_for_one(hub: FakeHub) -> None:
    hub.foreign = True
    assert f"{hub.url}/{REPO} cannot be used, check HF_ENDPOINT and proxies" in await refused()


async def test_a_file_that_is_not_there_is_answered_with_those_that_are(hub: FakeHub) -> None:
    message = await refused(f"{REPO}:Q2_K")
    assert f"{REPO} has no Q2_K; it has small-Q4_K_M.gguf, small-Q8_0-00001-of-00002.gguf" in message


@pytest.mark.parametrize("token", ["", "hf_wrong"])
async def test_a_gated_repository_says_where_to_accept_its_terms(
    token: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(REPO)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = await refused()
    assert f"{REPO} is gated: accept its terms on {hub.url}/{REPO}" in message
    assert "HF_TOKEN" in message
    assert "hf_wrong" not in message


async def test_with_its_token_a_gated_repository_is_like_any_other(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert (await download())[1][-1] == 1


async def test_a_disk_that_takes_nothing_is_named(hub: FakeHub, cache: Path) -> None:
    await trio.Path(cache).write_text("a file where a directory should be")
    assert f"{REPO} cannot be kept in {cache}: " in await refused()


@pytest.mark.parametrize("text", ["", "repo", "a/b/c", "org/repo:", "org/repo:a:b", "https://huggingface.co/org/repo"])
def test_what_names_no_repository_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="give REPO, REPO:QUANT or REPO:FILE"):
        HubModel.parse(text)


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ds4trio\[hub\]'"):
        HubModel.parse(REPO)
