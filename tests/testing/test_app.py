"""The application in memory takes the settings of ``serve``, and says which ones are none."""

from typing import Any

import pytest

from ds4trio.config import ConfigError
from ds4trio.testing import run_app


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parallel": 0}, "parallel = 0"),
        ({"prefil_tps": 100}, "did you mean 'prefill_tps'"),
        ({"heartbeat": "loud"}, "heartbeat = 'loud'"),
        ({"batch": 64, "parallel": 64}, "batch = 64 is too small for parallel = 64"),
    ],
)
async def test_settings_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        async with run_app(**settings):
            pass


async def test_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4TRIO_PARALLEL", "0")
    async with run_app(heartbeat_interval=5):
        pass
