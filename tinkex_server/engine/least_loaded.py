"""The choice of the replica that a sample goes to: a plain function."""

from __future__ import annotations

from collections.abc import Sequence

_NEAR = 8  # samples


def least_loaded(replicas: Sequence[tuple[int, bool]]) -> int:
    """Returns the index of the replica that a sample goes to, given for each the number of its
    samples and whether it has the adapter.

    It is the least loaded one that has the adapter, unless another has far fewer samples: to load
    an adapter takes as long as some samples.
    """
    least = min(
        range(len(replicas)), key=lambda index: (replicas[index][0], not replicas[index][1])
    )
    having = [index for index, (_, has) in enumerate(replicas) if has]
    if not having:
        return least
    near = min(having, key=lambda index: replicas[index][0])
    return near if replicas[near][0] <= 2 * replicas[least][0] + _NEAR else least
