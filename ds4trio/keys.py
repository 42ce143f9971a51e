"""API keys as operators write them: KEY or NAME:KEY, in the settings and in a file."""

from pathlib import Path

from ds4trio.config import ConfigError, Settings

__all__ = ["named_keys"]


def named_keys(settings: Settings) -> dict[str, str]:
    """All keys by their names, those of the settings before those of their file. Blocks. Raises `ConfigError`."""
    lines = list(settings.api_key)
    if settings.api_key_file:
        try:
            lines += Path(settings.api_key_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_key_file = {settings.api_key_file!r} cannot be read: {error}") from None
    keys: dict[str, str] = {}
    for line in lines:
        if not (text := line.strip()) or text.startswith("#"):
            continue
        before, colon, after = (part.strip() for part in text.partition(":"))
        name, key = (before, after) if colon else (f"key{len(keys) + 1}", before)
        if not key or not name or name in keys:
            raise ConfigError("an API key is KEY or NAME:KEY, each name once; one of them is empty or named twice")
        if key in keys.values():
            raise ConfigError("two API keys are the same, so nobody could tell who uses it; give each name its own")
        keys[name] = key
    if settings.api_key and not keys:  # --api-key "$KEY" where there is no such variable must not open the server
        raise ConfigError("api_key is empty; give a key, or leave the setting out")
    if settings.api_key_file and not keys:
        raise ConfigError(f"api_key_file = {settings.api_key_file!r} has no key in it; write one in each line")
    return keys
