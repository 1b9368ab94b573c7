"""Feature gates: fields of a dialect that the user switches on or off.

Plain values: no I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, fields

from tinkex.dialects.dialect import Dialect

GATES = frozenset(a.name for a in fields(Dialect) if a.type == "bool")
"""The names of the boolean fields of `Dialect`."""
# other Tinker clients set this gate by default; here sampling is always asynchronous
_ALWAYS = "async_sampling"


def check_gates(gates: Iterable[str]) -> None:
    """Raises `ValueError` for an unknown gate."""
    for gate in gates:
        if gate != _ALWAYS and gate.removeprefix("-") not in GATES:
            raise ValueError(
                f"{gate!r} is not a feature gate. The gates are {', '.join(sorted(GATES))}; "
                "a - before the name switches one off"
            )


def with_gates(dialect: Dialect, gates: Iterable[str]) -> Dialect:
    """Returns the dialect with the fields that the gates set."""
    return evolve(dialect, **_changes(gates))


def _changes(gates: Iterable[str]) -> Mapping[str, Any]:
    return {gate.removeprefix("-"): not gate.startswith("-") for gate in gates if gate != _ALWAYS}
