"""``python -m ds4trio.hub.fetch REPO WANTED``: download a model and say on stdout how far it is.

The only place that imports huggingface-hub. SIGTERM ends it like Ctrl-C: half a file is removed.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from ds4trio.hub.files import HubError, choose_files
from ds4trio.hub.messages import Failed, Found, Got, Message

__all__ = ["fetch"]

# Seconds until a Hub that does not answer counts as out of reach.
PATIENCE = 10
STDOUT = 1


def say(message: Message) -> None:
    """Tell the server. Raises `BrokenPipeError` where it is gone."""
    os.write(STDOUT, msgspec.json.encode(message) + b"\n")


def fetch(repo: str, wanted: str) -> Found:
    """Download what is not in the cache; the cache is enough where the Hub cannot help. Blocks. Raises `HubError`."""
    try:
        return Found(_download(repo, wanted))
    except BrokenPipeError:
        raise
    except Exception as error:  # the library has many kinds, and so have those that it builds on
        reason = _reason(repo, error)
        if path := _cached(repo, wanted):
            return Found(path, reason)
        raise HubError(reason) from error


def _download(repo: str, wanted: str) -> str:
    siblings = HfApi().model_info(repo, files_metadata=True, timeout=PATIENCE).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in siblings}
    files = choose_files(repo, sizes, wanted)
    total, done, paths = sum(sizes[file] for file in files), 0, []
    for file in files:
        paths.append(hf_hub_download(repo, file, tqdm_class=_bar(done, total)))
        done += sizes[file]
    return paths[0]


def _cached(repo: str, wanted: str) -> str | None:
    try:
        # The pattern of no file: the folder is given as it is, whatever it lacks.
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=[]))
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf") if path.is_file()]
        return str(folder / choose_files(repo, files, wanted)[0])
    except (LocalEntryNotFoundError, HFValidationError, HubError):
        return None


def _reason(repo: str, error: Exception) -> str:
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    page = f"{constants.ENDPOINT}/{repo}"
    match error:
        case GatedRepoError():
            return f"{repo} is gated: accept its terms on {page}, and set HF_TOKEN to a token of the account that did"
        case RepositoryNotFoundError():
            return f"there is no {page}, or it is private; check the name, or set HF_TOKEN to a token that may read it"
        case HfHubHTTPError():
            return f"{page} was answered with status {error.response.status_code}; try again later, or check HF_TOKEN"
        case OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} has no such model of {repo}"
        case httpx.HTTPError():
            return (
                f"{page} cannot be reached, or not to the end ({str(error) or type(error).__name__}); check the "
                "network and HF_ENDPOINT, or give a file with --model"
            )
        case HFValidationError():
            return f"{repo} is no name of a repository; it is written as on its page, OWNER/NAME"
        case FileMetadataError() | ValueError():
            return f"{page} cannot be used, check HF_ENDPOINT and proxies: {error}"
        case OSError():
            return f"{repo} cannot be kept in {constants.HF_HUB_CACHE}: {error}"
        case _:
            return f"{page} could not be downloaded: {type(error).__name__}: {error}"


def _bar(before: int, total: int) -> type[tqdm]:
    """What huggingface-hub tells the progress of one file. ``before``: bytes of the model that came before it."""

    class Bar(tqdm):
        """Shows nothing, and says what came."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options | {"disable": True})  # type: ignore[no-untyped-call]  # tqdm has no types
            self._done = before
            say(Got(before, total))

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            say(Got(self._done, total))

        # Where files come in pieces that are put together here, those of the network are told by these. One count is
        # enough.
        def update_transfer(self, n: float) -> None: ...

        def set_transfer_postfix_str(self, text: str, *, refresh: bool = True) -> None: ...

    return Bar


def main() -> None:
    """Say the outcome, and exit with status 0 where there is one."""
    sys.stdout = sys.stderr  # what a library prints is no message
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say(fetch(*sys.argv[1:]))
    except HubError as error:
        say(Failed(str(error)))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(1)


if __name__ == "__main__":
    main()
