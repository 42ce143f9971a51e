"""Orphans are found, whatever they are, and nothing else is taken for one."""

import threading

import pytest
import trio
from trio.testing import MockClock

from ds4trio.testing import (
    StartApp,
    StartServer,
    Watchdog,
    assert_no_orphans,
    call_asgi,
    chat_body,
    open_client,
    watch,
)

LONG = chat_body("word" * 3000)


async def test_whoever_leaves_an_application_leaves_nothing(autojump_clock: MockClock, ds4trio_app: StartApp) -> None:
    app = await ds4trio_app(prefill_tps=100)
    async with assert_no_orphans(app):
        for seconds in (0, 3, 31):
            async with call_asgi(app, LONG) as call:
                await watch(call, Watchdog(lifetime=seconds))


async def test_a_request_that_goes_on_is_named(autojump_clock: MockClock, ds4trio_app: StartApp) -> None:
    app = await ds4trio_app(prefill_tps=100)
    async with trio.open_nursery() as nursery:

        async def stay() -> None:
            async with call_asgi(app, LONG):
                await trio.sleep_forever()

        with pytest.raises(AssertionError, match=r"2 s later there is still a sequence.*the request req_.*the task"):  # noqa: PT012
            async with assert_no_orphans(app, within=2):
                nursery.start_soon(stay)
                await trio.sleep(10)
        nursery.cancel_scope.cancel()


async def test_a_request_that_was_there_before_is_none(autojump_clock: MockClock, ds4trio_app: StartApp) -> None:
    app = await ds4trio_app(prefill_tps=100)
    async with call_asgi(app, LONG) as older:
        await older.wait_for(b"role")
        async with assert_no_orphans(app), call_asgi(app, LONG) as call:
            await call.wait_for(b"role")


async def test_a_task_is_one_until_it_ends(autojump_clock: MockClock, ds4trio_app: StartApp) -> None:
    app = await ds4trio_app()
    async with trio.open_nursery() as nursery:
        async with assert_no_orphans(app, within=5):
            nursery.start_soon(trio.sleep, 4)
        with pytest.raises(AssertionError, match=r"the task trio.*sleep"):
            async with assert_no_orphans(app, within=5):
                nursery.start_soon(trio.sleep, 7)


async def test_a_thread_is_one_too(ds4trio_app: StartApp) -> None:
    app = await ds4trio_app()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="a stray thread")
    try:
        with pytest.raises(AssertionError, match="a stray thread"):
            async with assert_no_orphans(app, within=0.1):
                thread.start()
    finally:
        release.set()
        thread.join()
    async with assert_no_orphans(app, within=0.1):
        await trio.to_thread.run_sync(lambda: None)  # Trio keeps the thread for others


async def test_an_error_in_the_block_goes_through(ds4trio_app: StartApp) -> None:
    app = await ds4trio_app()
    with pytest.raises(ZeroDivisionError):
        async with assert_no_orphans(app):
            raise ZeroDivisionError


async def test_a_server_process_is_asked(ds4trio_server: StartServer) -> None:
    server = await ds4trio_server("--prefill-tps", "100", "--parallel", "1")
    async with (
        assert_no_orphans(server),
        open_client(server.port, LONG) as first,
        open_client(server.port, LONG) as second,
    ):
        await first.read()
        await second.read()
        first.reset()
    named = r"running request number 1.*request req_\w+ in prefill.*sequence of req_"
    async with trio.open_nursery() as nursery:

        async def stay() -> None:
            async with open_client(server.port, LONG) as client:
                await client.read_all()

        with pytest.raises(AssertionError, match=named):  # noqa: PT012
            async with assert_no_orphans(server, within=0.2):
                nursery.start_soon(stay)
                await server.wait_log("prefill chunk")
        nursery.cancel_scope.cancel()
    keyed = await ds4trio_server("--api-key", "secret")
    with pytest.raises(AssertionError, match="GET /requests was answered with 401"):
        async with assert_no_orphans(keyed):
            pass
    async with assert_no_orphans(keyed, headers={"authorization": "Bearer secret"}):
        pass
