"""What a request says of itself while the worker moves it about."""

from typing import NoReturn

from ds4trio.cache import Slot
from ds4trio.engine.base import GenerationRequest
from ds4trio.engine.batching import Sequence


def waiting() -> Sequence[None]:
    def begin() -> NoReturn:
        raise NotImplementedError

    return Sequence(GenerationRequest(prompt=range(100), max_tokens=1), begin, lambda _: None)


def test_what_a_preempted_request_finds_again_is_not_cached() -> None:
    sequence = waiting()
    sequence.place(Slot(0), 10)
    assert (sequence.progress.cached_tokens, sequence.progress.prefilled_tokens) == (10, 10)
    sequence.computed = 100
    begun = sequence.begun
    # The KV is full: its slot is taken. Later a neighbour has what both have in common.
    sequence.slot, sequence.computed = None, 0
    assert (sequence.progress.cached_tokens, sequence.progress.prefilled_tokens) == (10, 10)
    sequence.place(Slot(1), 60)
    assert (sequence.progress.cached_tokens, sequence.progress.prefilled_tokens) == (10, 60)
    assert sequence.begun == begun


def test_the_rate_is_that_of_the_last_placement() -> None:
    sequence = waiting()
    sequence.place(Slot(0), 60)
    assert sequence.progress.rate == 0
    sequence.computed = 80
    assert sequence.progress.rate > 0
    sequence.place(Slot(1), 0)
    assert sequence.progress.rate == 0, "nothing is computed yet"
    sequence.computed = 50
    assert sequence.progress.rate > 0, "though it is less than was cached at first"
