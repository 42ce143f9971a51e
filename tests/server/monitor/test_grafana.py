"""The example dashboard asks for nothing that ``/metrics`` does not have."""

import json
import re
from pathlib import Path
from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from ds4trio.config import Settings
from ds4trio.engine.simulated import SimulatedEngine
from ds4trio.server.app import App, build_app
from ds4trio.testing import call_asgi, chat_body

DASHBOARD = Path(__file__).parents[3] / "examples" / "grafana" / "ds4trio.json"

# A metric, its label matchers, and what comes before it: `sum by (le) (rate(`.
METRIC = re.compile(r"(?:by \((?P<by>[^)]*)\) )?\((?:rate\()?(?P<name>ds4trio_\w+)(?:\{(?P<matchers>[^}]*)\})?")
# Prometheus adds it to each sample.
ADDED = {"instance"}


async def samples(app: App) -> dict[str, dict[str, set[str]]]:
    """The names in an exposition, and of each the labels with their values."""
    async with call_asgi(app, method="GET", path="/metrics") as call:
        await call.ended.wait()
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(call.body.decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def expressions() -> list[str]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


async def test_each_query_names_metrics_and_labels_that_are_there(autojump_clock: MockClock) -> None:
    engine = SimulatedEngine(prefill_tps=100, decode_tps=10)
    app = build_app(Settings(engine="simulated"), engine=engine)
    async with app.test_app():
        await app.host.settled.wait()
        async with call_asgi(app, chat_body("a" * 4000)) as call:
            await call.ended.wait()
        async with call_asgi(app, chat_body("b" * 4000)) as leaver:
            await leaver.wait_for(b"role")
            await trio.sleep(2)
        async with call_asgi(app, {"messages": "none"}) as refused:
            await refused.ended.wait()
        there = await samples(app)
    asked = expressions()
    assert len(asked) > 20
    for expression in asked:
        found = list(METRIC.finditer(expression))
        assert len(found) == expression.count("ds4trio_"), expression
        for metric in found:
            assert metric["name"] in there, expression
            labels = there[metric["name"]]
            matchers = re.findall(r'(\w+)[=!~]+"([^"]*)"', metric["matchers"] or "")
            named = {label.strip() for label in (metric["by"] or "").split(",") if label.strip()}
            assert named | {label for label, _ in matchers} <= set(labels) | ADDED, expression
            for label, value in matchers:
                assert label in ADDED or set(value.split("|")) <= labels[label], expression


async def test_each_metric_is_on_the_dashboard(autojump_clock: MockClock) -> None:
    app = build_app(Settings(engine="simulated"), engine=SimulatedEngine())
    async with app.test_app():
        await app.host.settled.wait()
        there = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in await samples(app)}
    shown = " ".join(expressions())
    assert {name for name in there if name not in shown} == set()
