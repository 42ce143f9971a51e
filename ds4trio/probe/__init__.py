"""How a server behaves towards clients that wait, leave and come back, seen from outside.

`target` asks any server that speaks one of the three protocols, `measures` are single measurements, each of one thing,
`run` puts them in order and sizes the prompts, `report` says what came of it. Nothing here knows our own server: the
figures of another one mean the same.
"""

from ds4trio.probe.report import Row, as_document, as_table
from ds4trio.probe.run import Plan, Step, plan, steps
from ds4trio.probe.target import ProbeError, Target, open_target

__all__ = [
    "Plan",
    "ProbeError",
    "Row",
    "Step",
    "Target",
    "as_document",
    "as_table",
    "open_target",
    "plan",
    "steps",
]
