"""The examples are what the code and the programs they are for take them for."""

import configparser
import plistlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypercorn.config import Config

from ds4trio.agent_commands import described
from ds4trio.agents import AGENTS, Agent, Target
from ds4trio.config import Settings, load_settings

EXAMPLES = Path(__file__).parents[1] / "examples"
UNIT = EXAMPLES / "systemd" / "ds4trio.service"
SHOWN = Target(url="http://127.0.0.1:8000", model="local", context=131_072)


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.key)
def test_agents_are_shown_as_the_command_prints_them(agent: Agent) -> None:
    shown = (EXAMPLES / "agents" / f"{agent.key}.txt").read_text(encoding="utf-8")
    assert shown == described(agent, SHOWN, agent.protocols[0])


def test_no_agent_is_shown_that_there_is_not() -> None:
    assert {path.stem for path in (EXAMPLES / "agents").iterdir()} == {agent.key for agent in AGENTS}


def test_settings_are_settings() -> None:
    assert load_settings(config_file=str(EXAMPLES / "ds4trio.toml"), environment={}).served_model_name[0] == "local"


def test_hypercorn_reads_its_file() -> None:
    path = EXAMPLES / "hypercorn.toml"
    config = Config.from_toml(str(path))
    assert (config.worker_class, config.workers, config.backlog) == ("trio", 1, 2048)
    assert all(hasattr(config, name) for name in tomllib.loads(path.read_text()))


def unit() -> configparser.RawConfigParser:
    """The unit; of a key that stands there more than once, the values one below the other."""
    seen: dict[tuple[str, str], int] = {}
    section, lines = "", []
    for line in UNIT.read_text().splitlines():
        section = line if line.startswith("[") else section
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            lines.append(line)
            continue
        number = seen[section, key] = seen.get((section, key), 0) + 1
        lines.append(f"{key}.{number}={value}" if number > 1 else line)
    parser = configparser.RawConfigParser()
    parser.read_string("\n".join(lines))
    return parser


def environment_of(values: dict[str, str]) -> dict[str, str]:
    return dict(value.split("=", 1) for key, value in values.items() if key.startswith("environment"))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    command = unit()["Service"]["execstart"].split()[0]
    for unit_file in UNIT.parent.iterdir():
        (tmp_path / unit_file.name).write_text(unit_file.read_text().replace(command, sys.executable))
    units = [str(path) for path in tmp_path.iterdir()]
    assert len(units) == 2
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.stem in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_systemd_waits_for_longer_than_a_stuck_server_takes() -> None:
    service = dict(unit()["Service"])
    settings = load_settings(environment=environment_of(service))
    assert 2 * settings.shutdown_grace < int(service["timeoutstopsec"])
    assert settings.kv_disk_dir == f"%C/{service['cachedirectory']}/kv"
    assert service["killsignal"] == "SIGTERM"


def test_launchd_waits_for_longer_than_a_stuck_server_takes() -> None:
    with (EXAMPLES / "launchd" / "com.example.ds4trio.plist").open("rb") as file:
        service = plistlib.load(file)
    assert service["Label"] == "com.example.ds4trio"
    settings = load_settings(environment=service["EnvironmentVariables"])
    assert 2 * settings.shutdown_grace < service["ExitTimeOut"]
    assert service["KeepAlive"] == {"SuccessfulExit": False}
    assert service["Umask"] == 0o077


def test_the_image_sets_settings_and_copies_what_is_there() -> None:
    text = (EXAMPLES / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    settings = dict(re.findall(r"\b(DS4TRIO_\w+)=(\S+)", text))
    assert load_settings({}, environment=settings | {"DS4TRIO_API_KEY_FILE": str(UNIT)}).host == "0.0.0.0"
    for words in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        assert all((EXAMPLES.parent / source).exists() for source in words.split()[:-1])
    requirement = re.search(r"'(llama-cpp-python[^']*)'", text)
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    assert requirement is not None
    assert requirement[1] in project["dependencies"]


@pytest.mark.parametrize("path", ["nginx/ds4trio.conf", "caddy/Caddyfile"])
def test_proxies_let_through_what_the_server_takes(path: str) -> None:
    size = re.search(r"(?:client_max_body_size|max_size) (\d+)(?:m;|MiB)", (EXAMPLES / path).read_text())
    assert size is not None
    assert int(size[1]) * 2**20 == Settings().max_body_bytes
