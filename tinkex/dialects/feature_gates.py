"""Feature gates: single ways of a server that its user knows better than it says of itself. Plain
values: no I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, fields

from tinkex.dialects.dialect import Dialect

GATES = frozenset(a.name for a in fields(Dialect) if a.type == "bool")
"""The names of the yes-or-no fields of `Dialect`."""
# the one that other Tinker clients set by themselves; there is no other way to sample here
_ALWAYS = "async_sampling"


def check_gates(gates: Iterable[str]) -> None:
    """Raises `ValueError` for a gate that there is not."""
    for gate in gates:
        if gate != _ALWAYS and gate.removeprefix("-") not in GATES:
            raise ValueError(
                f"{gate!r} is no gate; there are {', '.join(sorted(GATES))}, and a - before the "
                "name closes it"
            )


def with_gates(dialect: Dialect, gates: Iterable[str]) -> Dialect:
    """The dialect as the gates have it."""
    return evolve(dialect, **_changes(gates))


def _changes(gates: Iterable[str]) -> Mapping[str, Any]:
    return {gate.removeprefix("-"): not gate.startswith("-") for gate in gates if gate != _ALWAYS}
