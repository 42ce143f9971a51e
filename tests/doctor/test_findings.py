"""What each check makes of what it sees."""

import socket
from pathlib import Path
from typing import Any

import pytest

from ds4trio.config import Settings
from ds4trio.doctor import machine, model, network
from ds4trio.doctor.findings import Finding
from ds4trio.doctor.rehearsal import BuildFacts, ChatFacts, Failure, ModelFacts, Rehearsal

MIB, GIB = 2**20, 2**30
BUILD = BuildFacts("0.3.36", ["AVX", "AVX2"], gpu=False)
CHAT = ChatFacts(True, tools=True, calls=True, codec="json", marker="<tool_call>")
MODEL = ModelFacts("llama 8B", trained_context=131_072, context=32_768, weights=5 * GIB, kv=4 * GIB, compute=GIB // 2)
URL = "http://127.0.0.1:8000"


def checked(available: int = 64 * GIB, *, settings: Settings | None = None, **facts: Any) -> dict[str, Finding]:
    told = Rehearsal(**{"build": BUILD, "model": MODEL, "chat": CHAT} | facts)
    return {finding.check: finding for finding in model.checks(settings or Settings(), told, available)}


def test_a_fit_model_is_ok() -> None:
    findings = checked()
    assert list(findings) == ["memory", "context", "template", "tools"]
    assert {finding.status for finding in findings.values()} == {"ok"}
    assert not any(finding.fix for finding in findings.values())
    assert "9.5 GiB needed: weights 5.0 GiB, KV of 32,768 tokens 4.0 GiB, computing 512 MiB" in findings["memory"].says


@pytest.mark.parametrize(
    ("available", "status", "fix"),
    [
        (9 * GIB, "problem", "--ctx 21248, "),  # 0.9 × 9 GiB less weights and batches, at 128 KiB a token
        (4 * GIB, "problem", "a smaller model"),
        (10 * GIB, "warning", "a smaller --ctx"),
        (12 * GIB, "warning", "--cache-ram-mb 1280"),
        (14 * GIB, "ok", ""),
    ],
)
def test_memory_is_weighed_against_what_is_free(available: int, status: str, fix: str) -> None:
    finding = checked(available)["memory"]
    assert finding.status == status
    assert fix in finding.fix
    if fix.startswith("--ctx"):
        fits = int(fix.split()[1].rstrip(","))
        assert MODEL.weights + MODEL.compute + fits * MODEL.kv / MODEL.context <= available
    if available == 4 * GIB:
        assert "--ctx" not in finding.fix


@pytest.mark.parametrize(
    ("context", "trained", "status", "fix"),
    [
        (65_536, 32_768, "warning", "--ctx 32768"),
        (8192, 131_072, "warning", "--ctx 32768"),
        (8192, 8192, "warning", "a model with a longer one"),
        (32_768, 40_960, "ok", ""),
    ],
)
def test_context_is_enough_for_agents_and_no_more_than_trained(
    context: int, trained: int, status: str, fix: str
) -> None:
    facts = ModelFacts("m", trained_context=trained, context=context, weights=1, kv=1, compute=1)
    finding = checked(model=facts)["context"]
    assert (finding.status, fix in finding.fix) == (status, True)


@pytest.mark.parametrize(
    ("chat", "check", "status", "says"),
    [
        (ChatFacts(False), "template", "warning", "only /v1/completions"),
        (None, "template", "problem", "boom"),
        (ChatFacts(True, tools=False, calls=False, codec="json", marker="<x>"), "tools", "warning", "lists no tools"),
        (ChatFacts(True, tools=True, calls=False, codec="json"), "tools", "warning", "writes no calls"),
    ],
)
def test_templates(chat: ChatFacts | None, check: str, status: str, says: str) -> None:
    finding = checked(chat=chat, failure=Failure("template", "boom"))[check]
    assert (finding.status, says in finding.says, bool(finding.fix)) == (status, True, True)


def test_a_model_that_cannot_be_loaded_says_nothing_else() -> None:
    findings = checked(model=None, failure=Failure("model", "unknown architecture"))
    assert list(findings) == ["load"]
    assert findings["load"].status == "problem"
    assert "unknown architecture" in findings["load"].says


def test_files_that_are_no_models(tmp_path: Path) -> None:
    text = tmp_path / "x.gguf"
    text.write_text("hello")
    assert model.find(Settings(model=str(text)))[1].says == f"{text} is no GGUF file"
    assert model.find(Settings(model=str(tmp_path)))[1].status == "problem"
    assert model.find(Settings(engine="simulated"))[1].status == "ok"


def test_a_build_without_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_flags", lambda: {"avx", "avx2", "fma"})
    finding = machine.llama(Rehearsal(build=BUILD))
    assert finding.status == "warning"
    assert "built without FMA, which" in finding.says
    assert machine.llama(Rehearsal(build=BuildFacts("1", ["AVX", "AVX2", "FMA"], gpu=True))).status == "ok"
    assert machine.llama(Rehearsal(failure=Failure("import", "gone"))).status == "problem"


def test_a_compiler_is_needed_to_build_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.compiler(built=True).status == "ok"
    assert machine.compiler(built=False).status == "problem"


def test_threads_against_cores_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    assert machine.threads(Settings()).status == "ok"
    assert "--threads 8" in machine.threads(Settings(threads=9)).fix
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    finding = machine.threads(Settings())
    assert (finding.status, "--threads 2" in finding.fix, "may use 2.5" in finding.says) == ("warning", True, True)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.threads(Settings()).status == "ok"


def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    whole = machine.available_memory()
    assert whole > 0
    (tmp_path / "memory.max").write_text(f"{64 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{40 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {8 * MIB}\n")
    assert machine.available_memory() == 32 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory() == pytest.approx(whole, rel=0.5)


def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Settings(kv_disk_dir=str(tmp_path / "not" / "yet"), kv_disk_space_mb=1)
    assert machine.disk(fits).status == "ok"
    assert not (tmp_path / "not").exists()
    assert machine.disk(Settings(kv_disk_dir=str(tmp_path), kv_disk_space_mb=2**30)).status == "warning"
    assert machine.disk(Settings(kv_disk=False)).status == "warning"
    (tmp_path / "file").touch()
    assert machine.disk(Settings(kv_disk_dir=str(tmp_path / "file"))).status == "problem"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert machine.disk(fits).status == "problem"


def test_a_file_that_a_running_server_removes_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "block").write_bytes(bytes(MIB))
    # It was one when it was listed.
    monkeypatch.setattr(Path, "rglob", lambda self, _: iter([self / "block", self / "gone"]))
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    finding = machine.disk(Settings(kv_disk_dir=str(tmp_path), kv_disk_space_mb=1))
    assert (finding.status, "1 MiB of 1 MiB taken" in finding.says) == ("ok", True)


def test_a_free_port_and_a_taken_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()
        finding = network.port(Settings(port=port))
    assert (finding.says, finding.status) == (f"http://127.0.0.1:{port} is free", "ok")
    assert network.port(Settings(host="203.0.113.1")).status == "problem"
    assert network.port(Settings(host="no.such.host.invalid")).status == "problem"
    assert network.address(Settings(host="0.0.0.0", port=port)) == f"http://127.0.0.1:{port}"


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", *network.ADDRESSES):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_an_environment_without_anything(clean: pytest.MonkeyPatch) -> None:
    del clean
    assert [(finding.check, finding.status) for finding in network.environment(URL)] == [("proxy", "ok")]


def test_a_proxy_between_clients_and_the_server(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("http_proxy", "http://me:secret@proxy.example:3128")
    (finding,) = network.environment(URL)
    assert (finding.status, "NO_PROXY" in finding.fix) == ("warning", True)
    assert "secret" not in finding.says
    clean.setenv("NO_PROXY", "localhost,127.0.0.1")
    (finding,) = network.environment(URL)
    assert finding.status == "ok"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("ANTHROPIC_BASE_URL", URL, "ok"),
        ("ANTHROPIC_BASE_URL", "http://localhost:8000/", "ok"),
        ("ANTHROPIC_BASE_URL", f"{URL}/v1", "warning"),
        ("OPENAI_BASE_URL", f"{URL}/v1", "ok"),
        ("OPENAI_BASE_URL", URL, "warning"),
        ("OPENAI_API_BASE", "https://api.example.com/v1", "warning"),
    ],
)
def test_clients_that_are_told_another_address(clean: pytest.MonkeyPatch, name: str, value: str, status: str) -> None:
    clean.setenv(name, value)
    finding = next(finding for finding in network.environment(URL) if finding.check == "client")
    assert finding.status == status
    assert status == "ok" or f"export {name}={URL}" in finding.fix
