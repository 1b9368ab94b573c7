"""Division of a batch among replicas, and the union of their results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.batches import example
from tinkex_server.engine.interface import LossResult
from tinkex_server.engine.ray.shards import combine, divide


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 8))
def test_each_datum_is_in_one_shard_at_its_place(lengths: list[int], replicas: int) -> None:
    data = [example(*range(length)) for length in lengths]
    shards = divide(data, replicas)
    assert [datum for shard in shards for datum in shard.data] == data
    assert all(data[shard.first] is shard.data[0] for shard in shards)
    numbers = [shard.replica for shard in shards]
    assert numbers == sorted(set(numbers))
    assert 0 <= numbers[0] <= numbers[-1] < replicas
    share = sum(lengths) / replicas
    for shard in shards:
        tokens = sum(len(datum.tokens) for datum in shard.data)
        assert tokens <= share + max(lengths), "no shard is larger by more than one datum"


def test_long_and_short_data_are_balanced_by_their_tokens() -> None:
    data = [example(*range(length)) for length in (30, 10, 10, 10)]
    assert [len(shard.data) for shard in divide(data, 2)] == [1, 3]


def test_results_are_those_of_the_whole_batch() -> None:
    data = [example(1), example(2), example(3)]
    shards = divide(data, 2)
    assert [len(shard.data) for shard in shards] == [2, 1]
    rows = [{"logprobs": np.float32([-index])} for index in range(3)]
    parts = [
        LossResult(rows[:2], {"loss:sum": 3.0, "kl:mean": 1.0}),
        LossResult(rows[2:], {"loss:sum": 4.0, "kl:mean": 4.0}),
    ]
    whole = combine(shards, parts)
    assert list(whole.loss_fn_outputs) == rows
    assert whole.metrics == {"loss:sum": 7.0, "kl:mean": pytest.approx(2.0)}
