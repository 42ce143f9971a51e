"""Answers of llama-server's conveniences, and what the server says of itself."""

from typing import Literal

from msgspec import UNSET, UnsetType

from ds4trio.server.openapi.answers.base import Answer

__all__ = [
    "Cancelled",
    "Detokenized",
    "Health",
    "Model",
    "Models",
    "Prompt",
    "Props",
    "Requests",
    "Root",
    "Slot",
    "Tokenized",
]


class TokenPiece(Answer):
    """A token and its text, or its bytes where they are no UTF-8."""

    id: int
    piece: str | list[int]


class Tokenized(Answer):
    """The tokens of a text."""

    tokens: list[int | TokenPiece]


class Detokenized(Answer):
    """The text of tokens."""

    content: str


class Prompt(Answer):
    """What the chat template makes of a conversation."""

    prompt: str


class ModelMeta(Answer):
    """What the file says of the model."""

    description: str
    n_ctx_train: int
    n_params: int
    size: int
    n_vocab: int


class Model(Answer):
    """A name that the server goes by."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["ds4trio"]
    context_length: int
    max_model_len: int
    meta: ModelMeta


class Models(Answer):
    """All names."""

    object: Literal["list"]
    data: list[Model]


class Health(Answer):
    """Whether requests are answered. `loaded` and `message` are there while they are not, the others while they are."""

    status: Literal["ok", "loading", "wedged", "failed"]
    running: int | UnsetType = UNSET
    waiting: int | UnsetType = UNSET
    loaded: float | UnsetType = UNSET
    message: str | UnsetType = UNSET


class SamplingDefaults(Answer):
    """How tokens are drawn unless a request says otherwise."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float


class GenerationSettings(Answer):
    """What holds unless a request says otherwise."""

    n_ctx: int
    params: SamplingDefaults


class Modalities(Answer):
    """What the model takes beside text."""

    vision: Literal[False]
    audio: Literal[False]


class LoraAdapter(Answer):
    """An adapter that the model computes with."""

    id: int
    path: str
    scale: float


class Props(Answer):
    """llama-server's properties."""

    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_path: str
    lora_adapters: list[LoraAdapter]
    chat_template: str
    bos_token: str
    eos_token: str
    modalities: Modalities
    build_info: str


class Slot(Answer):
    """A place for a request, in llama-server's shape. The members after the third are those of a request in it."""

    id: int
    n_ctx: int
    is_processing: bool
    id_task: str | UnsetType = UNSET
    n_prompt_tokens: int | UnsetType = UNSET
    n_prompt_tokens_processed: int | UnsetType = UNSET
    n_prompt_tokens_cache: int | UnsetType = UNSET
    n_decoded: int | UnsetType = UNSET


class CacheMiss(Answer):
    """Where a prompt parts from what was cached, and why."""

    position: int
    lost: int
    reason: str


class RequestState(Answer):
    """One request. `arrived` and `since` are seconds since 1970, other times seconds since it arrived."""

    id: str
    protocol: str
    model: str
    client: str
    key: str | None
    stream: bool
    phase: Literal["queued", "loading", "prefill", "decode", "withheld", "ended"]
    since: float
    arrived: float
    queue_position: int
    queue_length: int
    blocker: str | None
    prompt_tokens: int
    cached_tokens: int
    loaded_tokens: int
    prefilled_tokens: int
    output_tokens: int
    prefill_rate: float
    eta: float | None
    first_byte: float | None
    first_token: float | None
    heartbeats: int
    longest_silence: float | None
    stages: list[tuple[str, float]]
    beats: list[float]
    outcome: Literal["stop", "length", "cancelled", "failed"] | None
    cause: str | None
    miss: CacheMiss | None


class Requests(Answer):
    """The requests that live, oldest first, and the last that ended, latest first; totals since the server's start."""

    requests: list[RequestState]
    ended: list[RequestState]
    totals: dict[str, int]


class Cancelled(Answer):
    """Whether the request was still to be cancelled."""

    id: str
    cancelled: bool


class Root(Answer):
    """What this server is; the models' names are for those who have a key, where there are keys."""

    name: Literal["ds4trio"]
    version: str
    health: Literal["/health"]
    models: list[str] | UnsetType = UNSET
