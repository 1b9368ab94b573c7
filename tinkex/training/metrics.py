"""Joins the results of a split batch into one. Plain values: no I/O here.

A metric's name ends in its reduction, `name:reduction`, such as `loss:sum`. Source of the
reductions: openapi/tinker.yaml, ForwardBackwardOutput.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from tinkex.types import ForwardBackwardOutput

_MOD = 2**64


def combine(results: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
    """Returns one output for all chunks: outputs concatenated in order, metrics reduced."""
    if len(results) == 1:
        return results[0]
    return ForwardBackwardOutput(
        loss_fn_output_type=results[0].loss_fn_output_type,
        loss_fn_outputs=[output for result in results for output in result.loss_fn_outputs],
        metrics=reduce_metrics(
            [result.metrics for result in results], [len(r.loss_fn_outputs) for r in results]
        ),
        additional_properties={
            name: value
            for result in results
            for name, value in result.additional_properties.items()
        },
    )


def reduce_metrics(
    chunks: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> dict[str, float]:
    """Returns the metrics of all chunks as one mapping.

    A metric that only some chunks have is reduced over those. One with an unknown reduction, or
    with no or two colons in its name, becomes a weighted mean: an approximate number is better than
    a metric that silently goes missing.

    Args:
        chunks: the metrics of each chunk.
        weights: the number of outputs of each chunk.
    """
    return dict(_reduced(chunks, weights))


def _reduced(
    chunks: Sequence[Mapping[str, float]], weights: Sequence[float]
) -> Iterator[tuple[str, float]]:
    for name in dict.fromkeys(name for chunk in chunks for name in chunk):
        present = [
            (chunk[name], weight)
            for chunk, weight in zip(chunks, weights, strict=True)
            if name in chunk
        ]
        values, value_weights = [value for value, _ in present], [weight for _, weight in present]
        reduction = _reduction(name)
        if reduction == "unique":
            yield from _numbered(name, values)
        else:
            yield name, _REDUCTIONS.get(reduction, _mean)(values, value_weights)


def _reduction(name: str) -> str:
    return name.rpartition(":")[2] if name.count(":") == 1 else ""


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    return (
        sum(value * weight for value, weight in zip(values, weights, strict=True)) / total
        if total
        else 0.0
    )


def _slack(values: Sequence[float], weights: Sequence[float]) -> float:
    return max(values) - _mean(values, weights) if sum(weights) else 0.0


def _hash(values: Sequence[float], _weights: Sequence[float]) -> float:
    return sum(int(value) for value in values) % _MOD


def _numbered(name: str, values: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Yields the distinct values: the first under the name itself, the others under `name_1`,
    `name_2`, ...
    """
    for number, value in enumerate(dict.fromkeys(values)):
        yield (f"{name}_{number}" if number else name), value


_REDUCTIONS: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "sum": lambda values, _: sum(values),
    "min": lambda values, _: min(values),
    "max": lambda values, _: max(values),
    "mean": _mean,
    "slack": _slack,
    "hash_unordered": _hash,
    "hash2": _hash,
}
