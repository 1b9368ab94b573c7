"""Divides a batch among replicas, and makes one result of theirs: plain functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from attrs import frozen

from tinkex_server.engine.interface import Example, LossResult


@frozen
class Shard:
    """The data of one replica, which follow each other in the batch."""

    replica: int
    first: int
    """The index of the first datum in the batch."""
    data: Sequence[Example]


def divide(data: Sequence[Example], replicas: int) -> list[Shard]:
    """Returns the shards of a batch, in order: as many tokens for each replica as whole data allow.
    A replica may have none.
    """
    lengths = [len(example.tokens) for example in data]
    bounds = [0, *_bounds(lengths, replicas), len(data)]
    return [
        Shard(replica, first, data[first:last])
        for replica, (first, last) in enumerate(pairwise(bounds))
        if first < last
    ]


def combine(shards: Sequence[Shard], results: Sequence[LossResult]) -> LossResult:
    """Returns the result of the whole batch, given those of its shards.

    A metric is the sum of the shards', or their mean, weighted by their numbers of data, if its
    name says that it is a mean over the data.
    """
    total = sum(len(shard.data) for shard in shards)
    weights = [len(shard.data) / total for shard in shards]
    metrics = {
        name: sum(
            result.metrics[name] * (weight if name.endswith(":mean") else 1.0)
            for result, weight in zip(results, weights, strict=True)
        )
        for name in results[0].metrics
    }
    return LossResult([row for result in results for row in result.loss_fn_outputs], metrics)


def _bounds(lengths: Sequence[int], replicas: int) -> Iterator[int]:
    """Yields, for each replica but the last, the index after its last datum: where the tokens
    before are closest to its share.
    """
    total, before, index = sum(lengths), 0, 0
    for replica in range(1, replicas):
        share = total * replica / replicas
        while index < len(lengths) and before + lengths[index] / 2 <= share:
            before += lengths[index]
            index += 1
        yield index
