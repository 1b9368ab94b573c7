"""Results of sampling that programs make themselves."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np

import tinkex
from tinkex.dropin.results import SampledSequence, SampleResponse


def test_results_are_made_of_lists() -> None:
    sequence = SampledSequence(
        stop_reason="stop", sequence_id="s", _tokens_list=[1, 2], _logprobs_list=[-0.5, -1.0]
    )
    assert (sequence.tokens, sequence.logprobs) == ([1, 2], [-0.5, -1.0])
    assert (sequence.tokens_np.dtype, sequence.tokens_np.tolist()) == (np.int64, [1, 2])
    response = SampleResponse(sequences=[sequence], _prompt_logprobs_list=[None, -1.0])
    assert response.prompt_logprobs == [None, -1.0]
    again = pickle.loads(pickle.dumps(response))
    assert again.sequences[0].tokens == [1, 2]
    assert dataclasses.replace(sequence, stop_reason="length").tokens == [1, 2]


def test_results_are_made_of_arrays() -> None:
    sequence = SampledSequence("stop", "s", np.array([3]), np.array([-1.0], np.float32))
    assert (sequence.tokens, sequence.logprobs) == ([3], [-1.0])
    assert SampledSequence("stop", "s").tokens == []
    assert SampleResponse([sequence]).prompt_logprobs is None


def test_what_clients_return_are_instances_too() -> None:
    returned = tinkex.SampledSequence("stop", "s", np.array([1]))
    assert isinstance(returned, SampledSequence)
    assert isinstance(tinkex.SampleResponse([returned]), SampleResponse)
    assert isinstance(SampledSequence("stop", "s"), tinkex.SampledSequence)
    assert not isinstance(returned, SampleResponse)
