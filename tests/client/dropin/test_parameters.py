"""Parameters are made of what programs for the official SDK make them of."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import tinkex
from tinkex.dropin.parameters import AdamParams, SamplingParams


class Tensor:
    """Something like a tensor of one number."""

    ndim = 0

    def item(self) -> float:
        return 0.25


@pytest.mark.parametrize(
    ("given", "number"),
    [("1e-4", 1e-4), (Tensor(), 0.25), (np.float32(0.5), 0.5), (0.5, 0.5), ("fast", "fast")],
)
def test_numbers_are_read_of_what_stands_for_them(given: Any, number: Any) -> None:
    assert AdamParams(learning_rate=given).learning_rate == number
    assert SamplingParams(temperature=given).temperature == number
    assert type(AdamParams(learning_rate=given).learning_rate) is type(number)


def test_whole_numbers_and_stops() -> None:
    params = SamplingParams(max_tokens="4", seed=np.int64(3), top_k="-1", stop="7")
    assert (params.max_tokens, params.seed, params.top_k, params.stop) == (4, 3, -1, "7")


def test_settings_that_are_not_known() -> None:
    with pytest.warns(FutureWarning, match="no field min_p, n, which is ignored"):
        params = SamplingParams(max_tokens=2, n=1, min_p=0.1)
    assert params == SamplingParams(max_tokens=2)
    with pytest.raises(ValueError, match="has no parameter 'lr'"):
        AdamParams(lr=1.0)


def test_they_are_tinkexs_own_as_well() -> None:
    params = SamplingParams(max_tokens=2)
    assert isinstance(params, tinkex.SamplingParams)
    assert isinstance(tinkex.SamplingParams(max_tokens=2), SamplingParams)
    assert isinstance(tinkex.AdamParams(), AdamParams)
    assert pickle.loads(pickle.dumps(params)) == params
    assert {params: 1}[SamplingParams(max_tokens=2)] == 1
    assert params.model_copy(update={"max_tokens": 3}) == SamplingParams(max_tokens=3)
    assert SamplingParams.model_validate(params.model_dump()) == params
