"""The figures at ``/metrics``, in Prometheus' words. Each app has a registry of its own: nothing is global."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "Gauges", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. A prefill takes from milliseconds (cached) to many minutes.
LONG = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

Gauges = Callable[[], Iterable[tuple[str, str, str, Mapping[str, float]]]]
"""Name, meaning, the label's name (empty for none), and a value for each of the label's values."""


class Metrics:
    """Counts what records tell; ``gauges`` are asked at each look."""

    def __init__(self, gauges: Gauges = tuple) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Gauges(gauges))

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"ds4trio_{name}_seconds", meaning, buckets=buckets, registry=registry)

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"ds4trio_{name}", meaning, labels, registry=registry)

        self._requests = counter("requests", "Requests that have ended, by protocol and outcome", "protocol", "outcome")
        self._refusals = counter("refusals", "Requests that were answered with an error at once", "status", "code")
        self._queue = histogram("queue_wait", "From the arrival of a request to its turn", LONG)
        self._first_byte = histogram("first_byte", "From the arrival of a request to its first byte", SHORT)
        self._first_token = histogram("first_token", "From the arrival of a request to its first token", LONG)
        self._gap = histogram("inter_token", "Between two pieces of text of one answer", SHORT)
        self._silence = histogram("longest_silence", "The longest silent gap of each stream", LONG)
        self._cancels = counter("cancels", "Computations that were stopped, by cause", "cause")
        self._cancel = histogram("cancel", "From a cancel until nothing worked for the request", SHORT)
        self._tokens = counter(
            "tokens",
            "Tokens: prompt tokens computed, reused from memory or from disk; output; and those computed for answers "
            "that were cancelled (most of these stay cached)",
            "kind",
        )
        self._heartbeats = counter("heartbeats", "Heartbeats, by form", "form")
        for kind in ("computed", "memory", "disk", "output", "cancelled"):
            self._tokens.labels(kind)  # shown from the start, as 0

    def text(self) -> bytes:
        """The exposition. Not a checkpoint; takes about a millisecond."""
        return generate_latest(self._registry)

    def left_queue(self, seconds: float) -> None:
        """A request got its turn."""
        self._queue.observe(seconds)

    def first_byte(self, seconds: float) -> None:
        """A client heard of its request."""
        self._first_byte.observe(seconds)

    def first_token(self, seconds: float) -> None:
        """A prefill is done."""
        self._first_token.observe(seconds)

    def gap(self, seconds: float) -> None:
        """An answer went on."""
        self._gap.observe(seconds)

    def silence(self, seconds: float) -> None:
        """A stream is over; so long was its longest gap."""
        self._silence.observe(seconds)

    def heartbeat(self, form: str) -> None:
        """A beat was sent."""
        self._heartbeats.labels(form).inc()

    def computed(self, prompt: int, cached: int, loaded: int, output: int) -> None:
        """A generation is over: so many tokens were computed, of prompt and output; ``loaded`` of the cached ones came
        from the disk."""
        counts = {"computed": prompt, "memory": cached - loaded, "disk": loaded, "output": output}
        for kind, tokens in counts.items():
            self._tokens.labels(kind).inc(max(0, tokens))

    def cancelled(self, cause: str, seconds: float, tokens: int) -> None:
        """A computation was stopped, ``seconds`` after it was told to; so many ``tokens`` were computed for it."""
        self._cancels.labels(cause).inc()
        self._cancel.observe(seconds)
        self._tokens.labels("cancelled").inc(tokens)

    def ended(self, protocol: str, outcome: str) -> None:
        """A request is over."""
        self._requests.labels(protocol, outcome).inc()

    def refused(self, status: int, code: str) -> None:
        """A request was answered with an error before anything was computed."""
        self._refusals.labels(str(status), code).inc()


class _Gauges(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, meaning, label, values in self._gauges():
            family = GaugeMetricFamily(f"ds4trio_{name}", meaning, labels=[label] if label else [])
            for value, number in values.items():
                family.add_metric([value] if label else [], number)
            yield family
