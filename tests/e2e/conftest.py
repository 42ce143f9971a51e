"""A real server process with the real model, one for all tests that do not need their own."""

from collections.abc import AsyncGenerator

import pytest

from ds4trio.testing import ServerProcess, run_server


@pytest.fixture
async def server() -> AsyncGenerator[ServerProcess, None]:
    async with run_server("--stall-timeout", "3") as process:
        yield process
