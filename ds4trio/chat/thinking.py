"""How much to think: from a client's words to a wish, and on to the variables that one template reads."""

from collections.abc import Iterator

from ds4trio.chat.capabilities import Capabilities
from ds4trio.chat.messages import Thinking

__all__ = ["is_off", "thinking_of", "thinking_variables"]

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")


def thinking_of(effort: str | None, *, enabled: bool | None = None, budget: int | None = None) -> Thinking:
    """What a client means by an effort, a switch and a budget in tokens, each None where it says nothing.

    The effort ``none`` turns reasoning off, whatever else the client says. Where it is off, nothing else counts.
    """
    if enabled is False or effort == "none":
        return Thinking(enabled=False)
    return Thinking(enabled=enabled, effort=effort or None, budget=budget)


def is_off(thinking: Thinking) -> bool:
    """Whether the client wants an answer without reasoning."""
    return thinking.enabled is False or (thinking.enabled is None and thinking.effort == "none")


def thinking_variables(thinking: Thinking, can: Capabilities) -> Iterator[tuple[str, object]]:
    """The variables for how much to think. A client that asks for an effort asks for reasoning, too."""
    if is_off(thinking):
        yield from ((switch.name, switch.off) for switch in can.switches)
        if can.budget:
            yield can.budget, 0
        if can.effort and not can.switches:
            yield can.effort, can.effort_off or _known_effort("low", can)
        return
    wanted = thinking.enabled or thinking.effort not in (None, "minimal")
    if wanted:
        yield from ((switch.name, switch.on) for switch in can.switches)
    if can.budget and thinking.budget is not None:
        yield can.budget, thinking.budget
    if can.effort and thinking.effort is not None:
        yield can.effort, _known_effort(thinking.effort, can)
    elif wanted and can.effort_off:
        yield can.effort, _known_effort("high", can)


def _known_effort(word: str, can: Capabilities) -> str:
    """The word itself where the template takes it, else the nearest that it takes, the higher one of two."""
    if can.any_effort or word in can.efforts or word not in _EFFORTS:
        return word
    wanted = _EFFORTS.index(word)
    known = [index for index, candidate in enumerate(_EFFORTS) if candidate in can.efforts]
    return _EFFORTS[min(known, key=lambda index: (abs(index - wanted), -index))] if known else word
