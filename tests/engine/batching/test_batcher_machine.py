"""A real batcher, scheduler and slot table under clients who do as they please, in a memory that is too small for them.

Whatever happens, every request ends, every answer is the one that a model that computes it alone gives, nobody who
decodes waits longer than promised, and in the end no slot and no cell is lost.
"""

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ds4trio.engine.batching import Outcome
from ds4trio.engine.batching.cost import work_of
from ds4trio.engine.batching.scheduler import LEAST
from tests.engine.batching.bench import ECHO, STALL, Bench, Client, answer, tokens_of
from tests.engine.batching.fake_memory import KINDS
from tests.engine.batching.machines import MACHINES

CELLS = 1000
SLOTS = 4
UBATCH = 128
LONGEST = 700
MOST = 40

# What conversations are made of: system prompts, one of which makes the model repeat what was said, and turns by a few
SYSTEMS = [tokens_of(0, 70), tokens_of(1, 280), [ECHO, *tokens_of(7, 150)]]
TURNS = [tokens_of(2, 3), tokens_of(3, 40), tokens_of(4, 100), tokens_of(5, 130), tokens_of(6, 300)]

systems = st.integers(0, len(SYSTEMS) - 1)
turns = st.integers(0, len(TURNS) - 1)
answers = st.integers(1, MOST)
priorities = st.sampled_from([0, 0, 0, -1, 1])
anyone = st.integers(0, 50)


class BatcherLife(RuleBasedStateMachine):
    """Requests arrive, go on, retry and leave at any moment; batches are computed, aborted and fail."""

    kind = "full"

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(KINDS[self.kind], cells=CELLS, slots=SLOTS, ubatch=UBATCH)
        self.batches = 0
        self.failed: set[int] = set()

    @initialize(machine=st.sampled_from(sorted(MACHINES)))
    def open(self, machine: str) -> None:
        self.bench = Bench(
            KINDS[self.kind],
            cells=CELLS,
            slots=SLOTS,
            ubatch=UBATCH,
            machine=MACHINES[machine],
            draft=True,
            rest_bytes=2**16,
        )

    # --- clients ------------------------------------------------------------------------------------------------------

    def ask(self, prompt: list[int], begins: list[int], most: int, priority: int) -> None:
        """``begins`` are where the turns begin; the system prompt ends at the first."""
        if len(prompt) <= LONGEST:
            self.bench.ask(prompt, most=most, priority=priority, turns=tuple(begins))

    @rule(system=systems, said=st.lists(turns, min_size=1, max_size=3), most=answers, priority=priorities)
    def arrive(self, system: int, said: list[int], most: int, priority: int) -> None:
        prompt, begins = [*SYSTEMS[system]], []
        for turn in said:
            begins.append(len(prompt))
            prompt += TURNS[turn]
        self.ask(prompt, begins, most, priority)

    @precondition(lambda self: self.bench.clients)
    @rule(index=anyone, said=turns, most=answers, priority=priorities)
    def say_more(self, index: int, said: int, most: int, priority: int) -> None:
        """The next turn of a conversation, whether its client has heard the answer by now or not."""
        client = self.client(index)
        prompt = client.prompt + answer(client.prompt, client.most)[0]
        self.ask(prompt + TURNS[said], [*client.request.request.turns, len(prompt)], most, priority)

    @precondition(lambda self: self.bench.clients)
    @rule(index=anyone, most=answers, priority=priorities)
    def ask_again(self, index: int, most: int, priority: int) -> None:
        client = self.client(index)
        self.ask(client.prompt, [*client.request.request.turns], most, priority)

    def client(self, index: int) -> Client:
        return self.bench.clients[index % len(self.bench.clients)]

    def running(self, index: int) -> Client:
        """One that is not released."""
        running = [client for client in self.bench.clients if not client.released]
        return running[index % len(running)]

    # --- steps --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.bench.batcher.sequences)
    @rule(count=st.integers(1, 12))
    def compute(self, count: int) -> None:
        for _ in range(count):
            self.step()

    @precondition(lambda self: self.bench.batcher.sequences)
    @rule(index=anyone)
    def leave(self, index: int) -> None:
        self.running(index).request.cancelled = True

    @precondition(lambda self: self.bench.batcher.sequences)
    @rule(index=anyone)
    def leave_just_before_a_batch(self, index: int) -> None:
        self.bench.memory.cancel_before = self.running(index).request
        self.step()

    @precondition(lambda self: self.bench.batcher.sequences)
    @rule(index=anyone)
    def leave_within_a_batch(self, index: int) -> None:
        self.bench.memory.cancel_within = self.running(index).request
        self.step()

    @precondition(lambda self: self.bench.batcher.sequences)
    @rule()
    def make_way_within_a_batch(self) -> None:
        self.bench.memory.newcomer_within = True
        self.step()

    @rule(count=st.integers(1, 6))
    def tidy(self, count: int) -> None:
        for _ in range(count):
            self.bench.batcher.tidy()

    @precondition(lambda self: self.bench.batcher.sequences)
    @rule()
    def fail(self) -> None:
        self.bench.memory.fail_next = True
        self.step()

    def step(self) -> None:
        bench = self.bench
        bench.step()
        # The batch may not have come to that.
        bench.memory.cancel_before = bench.memory.cancel_within = None
        bench.memory.fail_next = False
        if len(bench.batches) == self.batches:
            return
        self.batches = len(bench.batches)
        if bench.batches[-1].outcome is Outcome.FAILED:
            self.failed |= {index for index, client in enumerate(bench.clients) if client.error is not None}
        if bench.batches[-1].outcome is Outcome.DONE:
            self.nobody_waited_longer_than_promised(bench.batches[-1].seconds)

    def nobody_waited_longer_than_promised(self, seconds: float) -> None:
        plan = self.bench.scheduler.latest
        assert plan is not None
        if plan.prompt_tokens <= LEAST or len(plan.works) == 1:
            return
        if self.bench.kind.whole_only:  # the step of those who decode comes after it
            decoding = [position for decodes, position, _ in plan.works if decodes]
            if decoding:
                seconds += self.bench.machine(len(decoding), sum(work_of(position, 1) for position in decoding))
        assert seconds <= 1.25 * STALL

    # --- what is true all the time, and in the end --------------------------------------------------------------------

    @invariant()
    def the_table_knows_what_the_memory_holds(self) -> None:
        table, memory = self.bench.batcher._slots, self.bench.memory
        owned = {sequence.slot.id: sequence for sequence in self.bench.batcher.sequences if sequence.slot is not None}
        for slot in table.slots:
            assert slot.busy == (slot.id in owned)
            held = memory.history(slot.id)
            if slot.busy:
                assert held == owned[slot.id].tokens[: owned[slot.id].computed]
                assert table.tokens(slot) == held[: table.length(slot)]
            else:
                assert table.tokens(slot) == held

    def teardown(self) -> None:
        bench = self.bench
        steps = sum(len(client.prompt) // LEAST + client.most for client in bench.clients) + 50
        for _ in range(3 * steps):
            if not bench.batcher.sequences:
                break
            self.step()
        assert not bench.batcher.sequences, "some never end"
        for index, client in enumerate(bench.clients):
            assert client.released
            if index in self.failed:
                assert client.error is not None
            else:
                client.check()
        self.the_table_knows_what_the_memory_holds()
        self.every_cell_can_be_had()

    def every_cell_can_be_had(self) -> None:
        client = self.bench.ask(tokens_of(9, CELLS - MOST), most=MOST)
        self.bench.run()
        client.check()


class SlidingLife(BatcherLife):
    kind = "sliding"


class HybridLife(BatcherLife):
    kind = "hybrid"


class CompressedLife(BatcherLife):
    kind = "deepseek4"


# The same examples each time: whether a change is good does not depend on the day. A failure is shown as it was found,
# since making it smaller takes minutes; for that, add `Phase.shrink`.
SETTINGS = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
for life in (BatcherLife, SlidingLife, HybridLife, CompressedLife):
    life.TestCase.settings = SETTINGS

TestFull = BatcherLife.TestCase
TestSliding = SlidingLife.TestCase
TestHybrid = HybridLife.TestCase
TestCompressed = CompressedLife.TestCase
