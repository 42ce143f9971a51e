"""A configuration goes into a file that has others: nothing of those is lost, and once is as good as twice."""

import json
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ds4trio.agents import AGENTS, Agent, Target, UnmergeableError, dump, merged, plan
from ds4trio.agents.clients import CODEX_FILE, PI_FILE

TARGET = Target(url="http://127.0.0.1:8000", model="local", context=131_072, api_key="sk-1")
SUFFIXES = (".json", ".toml", ".yml")
LOAD: Mapping[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yml": lambda text: YAML(typ="safe", pure=True).load(text),
}

# What all three formats can say. TOML has no null, and its integers have 64 bits.
LEAVES = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
)
KEYS = st.text("abcXYZ019_-. é\"'#:[]", min_size=1, max_size=6) | st.sampled_from(
    ["model", "models", "env", "provider", "providers", "ds4trio", "model_providers", "id", "options"]
)
TABLES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3),
    lambda inner: st.dictionaries(KEYS, LEAVES | inner | st.lists(LEAVES, max_size=2), max_size=4),
    max_leaves=12,
)
OURS = st.dictionaries(KEYS, LEAVES | st.dictionaries(KEYS, LEAVES, max_size=3), min_size=1, max_size=3)


def paths(values: Mapping[str, Any], before: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is no table, by its path."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= paths(value, (*before, key))
        else:
            found[*before, key] = value
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(theirs=TABLES, ours=OURS)
def test_nothing_is_lost_and_twice_is_once(suffix: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    before = dump(theirs, f"x{suffix}")
    if clash(theirs, ours):
        with pytest.raises(UnmergeableError, match=r"is no table of settings in it|holds settings of its own in it"):
            merged(before, ours, suffix)
        return
    after = merged(before, ours, suffix)
    found, mine = paths(LOAD[suffix](after)), paths(ours)
    assert all(found[path] == value for path, value in mine.items() if value != {})
    kept = {path: value for path, value in paths(theirs).items() if path not in mine and value != {}}
    assert all(found.get(path) == value for path, value in kept.items())
    assert merged(after, ours, suffix) == after


def clash(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether they have something else where we have a table, or a table or list where we have a value."""
    return any(
        not isinstance(theirs[key], Mapping) or clash(theirs[key], value)
        if isinstance(value, Mapping)
        else isinstance(theirs[key], Mapping | list)
        for key, value in ours.items()
        if key in theirs
    )


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.key)
def test_every_configuration_goes_into_an_empty_file_and_into_its_own(agent: Agent) -> None:
    for protocol in agent.protocols:
        for place, values in agent.lasting(TARGET, protocol).files.items():
            suffix = Path(place.name).suffix
            text = dump(values, place.name)
            assert LOAD[suffix](text) == values
            assert merged(text, values, suffix) == text


CODEX = """\
# mine
approval_policy = "never"   # really

model = "gpt-5"
[profiles.work]
model = "gpt-5-codex" # for work

[model_providers.azure]
name = "Azure"
base_url = "https://example.com/v1"

[mcp_servers.files]
command = "npx"
args = [
  "-y",  # yes
  "files",
]
"""


def test_toml_keeps_comments_and_order() -> None:
    values = next(agent for agent in AGENTS if agent.key == "codex").configure(TARGET, "responses").files[CODEX_FILE]
    after = merged(CODEX, values, ".toml")
    lines = after.splitlines()
    assert [line for line in CODEX.splitlines() if line not in lines] == ['model = "gpt-5"']
    document = tomllib.loads(after)
    assert document["model"] == "local"
    assert document["profiles"]["work"]["model"] == "gpt-5-codex"
    assert set(document["model_providers"]) == {"azure", "ds4trio"}


@pytest.mark.parametrize(
    "text",
    [
        'model_providers = { azure = { name = "A" } }\n',
        '[model_providers]\nazure = { name = "A" }\n',
        '[model_providers.azure]\nname = "A"\n[[hooks]]\na = 1\n[[hooks]]\nb = 2',
        '[model_providers.ds4trio]\nname = "old" # here\nextra = 1\n[x]\ny = 1\n',
        '[a]\n[model_providers.azure]\nname = "A"\n[b]\n[model_providers.other]\nname = "B"\n',
        "# nothing yet",
        'model = "a"\r\n# c\r\n[t]\r\nx = 1\r\n',
    ],
)
def test_toml_of_every_style_takes_it(text: str) -> None:
    values = next(agent for agent in AGENTS if agent.key == "codex").configure(TARGET, "responses").files[CODEX_FILE]
    after = merged(text, values, ".toml")
    found, before = paths(tomllib.loads(after)), paths(tomllib.loads(text))
    assert found == before | paths(values)
    assert after.count("#") == text.count("#")
    assert merged(after, values, ".toml") == after


def test_what_a_library_would_lose_is_refused() -> None:
    values = next(agent for agent in AGENTS if agent.key == "codex").configure(TARGET, "responses").files[CODEX_FILE]
    with pytest.raises(UnmergeableError, match="settings would be lost"):  # by tomlkit 0.15
        merged('model_providers.azure.name = "A"\n', values, ".toml")


YML = """\
# what I like
auto-commits: false   # no
read: [CONVENTIONS.md, "two.md"]
model: sonnet
"""


def test_yaml_keeps_comments() -> None:
    after = merged(YML, {"model": "openai/local", "openai-api-key": "none"}, ".yml")
    assert after.startswith(YML.replace("sonnet", "openai/local"))
    assert after.endswith("openai-api-key: none\n")
    only_comments = "# nothing yet"
    assert merged(only_comments, {"model": "x"}, ".yml") == "# nothing yet\nmodel: x\n"


def test_a_list_of_models_keeps_the_others() -> None:
    theirs = {"providers": {"ds4trio": {"models": [{"id": "other", "contextWindow": 1}, {"id": "local", "name": "L"}]}}}
    values = next(agent for agent in AGENTS if agent.key == "pi").configure(TARGET, "chat").files[PI_FILE]
    models = json.loads(merged(json.dumps(theirs), values, ".json"))["providers"]["ds4trio"]["models"]
    assert models == [
        {"id": "other", "contextWindow": 1},
        {"id": "local", "name": "L", "contextWindow": 131_072, "maxTokens": 16_384},
    ]


@pytest.mark.parametrize(
    ("text", "suffix"),
    [('{\r\n  "a": 1\r\n}\r\n', ".json"), ("a = 1\r\n[t]\r\nx = 1\r\n", ".toml"), ("a: 1\r\n", ".yml")],
)
def test_lines_end_as_they_did(text: str, suffix: str) -> None:
    after = merged(text, {"new": {"b": 1, "c": "x"}}, suffix)
    assert after.count("\n") == after.count("\r\n") >= 3
    mixed = merged("a = 1\n" + "b = 2\r\n", {"new": {"c": 1}}, ".toml")
    assert mixed.startswith("a = 1\n")


def test_json_keeps_its_indent_and_its_letters() -> None:
    assert merged('{\n\t"a": "é"\n}', {"b": 1}, ".json") == '{\n\t"a": "é",\n\t"b": 1\n}\n'


@pytest.mark.parametrize(
    ("text", "suffix", "why"),
    [
        ('{"a": 1, // mine\n}', ".json", "it is no plain JSON"),
        ("[1]", ".json", "it holds no table of settings"),
        ("a = ", ".toml", "it cannot be read"),
        ("a: [", ".yml", "it cannot be read"),
        ("- a", ".yml", "it holds no table of settings"),
        ('{"env": "all"}', ".json", "'env' is no table of settings in it"),
        ('{"model": {"old": 1}}', ".json", "'model' holds settings of its own in it"),
        ("model: [a, b]", ".yml", "'model' holds settings of its own in it"),
        ("[[model]]\na = 1", ".toml", "'model' holds settings of its own in it"),
        ('{"x": {"a": 1, "a": 2}}', ".json", "it has a name twice in one table"),
        ('{"x": 0.12345678901234567890}', ".json", "the number 0.12345678901234567890 would change"),
        ('{"x": 1e400}', ".json", "the number 1e400 would change"),
        ('{"x": NaN}', ".json", "it is no plain JSON"),
    ],
)
def test_what_cannot_be_merged_says_so(text: str, suffix: str, why: str) -> None:
    with pytest.raises(UnmergeableError, match=why) as raised:
        merged(text, {"env": {"A": "1"}, "model": "m"}, suffix)
    assert "without --write" in str(raised.value)


def test_writing_keeps_mode_link_and_backups(tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles" / "settings.json"
    kept.parent.mkdir()
    kept.write_text('{"mine": 1}')
    kept.chmod(0o640)
    link = tmp_path / "settings.json"
    link.symlink_to(kept)
    backups = [plan(link, {"env": {"A": value}}).write() for value in ("1", "2")]
    assert [json.loads(path.read_text()) for path in backups if path] == [{"mine": 1}, {"mine": 1, "env": {"A": "1"}}]
    assert link.is_symlink()
    assert json.loads(kept.read_text()) == {"mine": 1, "env": {"A": "2"}}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert len(list(kept.parent.iterdir())) == 3


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "settings.json"
    assert plan(path, {"key": "secret"}).write() is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not plan(path, {"key": "secret"}).diff


def test_numbers_stay_what_they_are() -> None:
    text = '{"a": 0.1, "b": 1e5, "c": 12345678901234567890123, "d": -2.50}'
    after = merged(text, {"x": 1}, ".json")
    assert json.loads(after, parse_float=Decimal) == {**json.loads(text, parse_float=Decimal), "x": 1}


def test_a_file_with_a_key_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{}")
    path.chmod(0o644)
    ours = {"env": {"TOKEN": "secret"}}
    assert not plan(path, ours).exposed  # there is no key
    change = plan(path, ours, key="secret")
    assert change.exposed
    backup = change.write()
    assert backup
    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, backup)] == [0o600, 0o600]
    path.chmod(0o644)  # as one that has it already may be
    change = plan(path, ours, key="secret")
    assert (change.diff, change.exposed, change.write()) == ("", True, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not plan(path, ours, key="secret").exposed


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{}")
    change = plan(path, {"a": 1})
    path.write_text('{"b": 2}')
    with pytest.raises(UnmergeableError, match="changed in the meantime"):
        change.write()
    assert path.read_text() == '{"b": 2}'
    assert os.listdir(tmp_path) == ["settings.json"]  # noqa: PTH208 - names only
