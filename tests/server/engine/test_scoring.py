"""Logprobs of targets and their gradients are those of float64, whatever the lengths; passes are
bounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tinkex_server.engine.interface import Example
from tinkex_server.engine.torch.scoring import micro_batches, target_logprobs, tokens_at_once

VOCAB = 11
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@define
class Network:
    """A model that answers with prepared logits, and keeps the arguments of its calls."""

    logits: Tensor
    device: torch.device = CPU
    asked: Tensor | None = None

    def __call__(self, input_ids: Tensor, use_cache: bool) -> Network:
        self.asked = input_ids
        return self


def drawn(lengths: list[int], targets: int | None, random: np.random.Generator) -> list[Example]:
    """`targets` a position; None: one, without an axis of its own."""
    shapes = [(length,) if targets is None else (length, targets) for length in lengths]
    return [
        Example(
            random.integers(0, VOCAB, shape[0]), {"target_tokens": random.integers(0, VOCAB, shape)}
        )
        for shape in shapes
    ]


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from([None, 1, 3]),
    st.integers(0, 100),
)
def test_logprobs_and_their_gradient_are_those_of_float64(
    lengths: list[int], targets: int | None, seed: int
) -> None:
    random = np.random.default_rng(seed)
    data = drawn(lengths, targets, random)
    whole = torch.tensor(
        random.normal(0, 4, (len(lengths), max(lengths), VOCAB)), dtype=torch.float32
    )
    network, exact = Network(whole.clone().requires_grad_()), whole.double().requires_grad_()
    ours = target_logprobs(network, data)
    theirs = [
        of_row(exact[row], example.loss_inputs["target_tokens"]) for row, example in enumerate(data)
    ]
    slopes = [random.normal(0, 1, tuple(row.shape)) for row in ours]
    for rows in (ours, theirs):
        torch.stack(
            [(row * torch.as_tensor(slope)).sum() for row, slope in zip(rows, slopes, strict=True)]
        ).sum().backward()
    assert network.asked is not None
    for row, example in enumerate(data):
        np.testing.assert_allclose(ours[row].detach(), theirs[row].detach(), atol=1e-5)
        np.testing.assert_array_equal(network.asked[row, : lengths[row]], example.tokens)
    torch.testing.assert_close(
        network.logits.grad, exact.grad, check_dtype=False, atol=1e-5, rtol=1e-5
    )


def of_row(logits: Tensor, targets: Any) -> Tensor:
    columns = torch.as_tensor(targets).reshape(len(targets), -1)
    return logits[: len(targets)].log_softmax(-1).gather(-1, columns).reshape(targets.shape)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_each_datum_is_in_one_pass_and_no_pass_is_too_large(lengths: list[int]) -> None:
    passes = list(micro_batches(lengths, 40))
    assert sorted(index for indices in passes for index in indices) == list(range(len(lengths)))
    assert all(
        len(indices) == 1 or len(indices) * max(lengths[i] for i in indices) <= 40
        for indices in passes
    )


@pytest.mark.parametrize(
    ("vocab", "device"), [(272, CPU), (272, CUDA), (151_936, CPU), (151_936, CUDA)]
)
def test_the_logits_of_a_pass_are_at_most_a_gigabyte(vocab: int, device: torch.device) -> None:
    assert 1000 < tokens_at_once(vocab, device) <= (1 << 30) / (4 * vocab)
