"""The results of a split batch are those of the whole."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from tinkex.training.metrics import combine, reduce_metrics
from tinkex.types import ForwardBackwardOutput, TensorData


def output_of(values: list[float]) -> ForwardBackwardOutput:
    metrics = {
        "v:sum": math.fsum(values),
        "v:min": min(values),
        "v:max": max(values),
        "v:mean": math.fsum(values) / len(values),
    }
    return ForwardBackwardOutput(
        "ArrayRecord", [{"logprobs": TensorData([value])} for value in values], metrics
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.data())
def test_any_split_gives_the_same(values: list[float], data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(1, len(values)), max_size=5))
    borders = [0, *sorted(cuts | {len(values)})]
    parts = [values[a:b] for a, b in itertools.pairwise(borders)]
    whole, joined = output_of(values), combine([output_of(part) for part in parts])
    assert joined.loss_fn_outputs == whole.loss_fn_outputs
    for name, value in whole.metrics.items():
        assert math.isclose(joined.metrics[name], value, rel_tol=1e-9, abs_tol=1e-6)


def test_each_reduction() -> None:
    chunks = [
        {"a:slack": 1.0, "u:unique": 5.0, "h:hash2": 2**64 - 1, "odd": 1.0, "x:y:sum": 1.0},
        {"a:slack": 4.0, "u:unique": 6.0, "h:hash2": 2, "odd": 4.0, "x:y:sum": 4.0},
    ]
    assert reduce_metrics(chunks, [2, 1]) == {
        "a:slack": 2.0,
        "u:unique": 5.0,
        "u:unique_1": 6.0,
        "h:hash2": 1,
        "odd": 2.0,
        "x:y:sum": 2.0,
    }


def test_no_outputs_give_a_mean_of_zero() -> None:
    assert reduce_metrics([{"a:mean": 3.0}, {"a:mean": 4.0}], [0, 0]) == {"a:mean": 0.0}
