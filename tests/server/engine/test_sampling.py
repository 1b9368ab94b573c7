"""Tokens are drawn from the distribution that is asked for, and samples end where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tinkex_server.engine.interface import SampleSpec
from tinkex_server.engine.torch.sampling import (
    SamplingSettings,
    pick_tokens,
    random_key,
    sample_tokens,
    uniforms,
)
from tinkex_server.engine.torch.stopping import StopRule

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
DRAWS = 20_000


def frequencies(spec: SampleSpec, logits: Tensor = LOGITS) -> Tensor:
    """How often each token comes, in many steps of one random_key."""
    tokens, _ = sample_tokens(logits.expand(DRAWS, -1), drawing(*[spec] * DRAWS), range(DRAWS))
    return torch.bincount(tokens, minlength=len(logits)) / DRAWS


def drawing(*specs: SampleSpec, vocab_size: int = 6) -> SamplingSettings:
    return SamplingSettings.of(
        specs, [random_key(7, 0) for _ in specs], vocab_size, torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, 6),
        ({"temperature": 0.5}, 6),
        ({"temperature": 3.0}, 6),
        ({"top_k": 2}, 2),
        ({"top_k": 100}, 6),
        ({"top_p": 0.7}, 2),  # the uniforms are 0.55, 0.20, 0.12, ...
        ({"top_p": 0.5}, 1),
        ({"top_k": 3, "top_p": 0.8}, 2),  # of what top_k leaves: 0.63, 0.23, 0.14
        ({"top_k": 3, "top_p": 0.9}, 3),
        ({"temperature": 0.0, "top_k": 3}, 1),
        ({"temperature": 0.001}, 1),
    ],
)
def test_tokens_come_as_often_as_they_should(settings: dict[str, float], kept: int) -> None:
    spec = SampleSpec([1], **settings)  # pyright: ignore[reportArgumentType]
    expected = torch.softmax(LOGITS / (spec.temperature or 1e-3), dim=-1)
    expected[kept:] = 0
    torch.testing.assert_close(frequencies(spec), expected / expected.sum(), atol=0.012, rtol=0)


def test_settings_of_one_row_are_not_those_of_another() -> None:
    specs = [
        SampleSpec([1], temperature=0.0),
        SampleSpec([1], top_k=1),
        SampleSpec([1]),
        SampleSpec([1], top_p=0.01, temperature=9.0),
    ]
    rows = drawing(*specs)
    drawn = torch.stack(
        [sample_tokens(LOGITS.expand(4, -1), rows, [step] * 4)[0] for step in range(50)]
    )
    alone = torch.stack(
        [sample_tokens(LOGITS[None], drawing(specs[2]), [step])[0] for step in range(50)]
    )
    assert drawn[:, [0, 1, 3]].eq(0).all()
    assert drawn[:, 2].equal(alone[:, 0])
    assert len(set(drawn[:, 2].tolist())) > 2


def test_logprobs_are_the_models_own_whatever_the_settings() -> None:
    tokens, logprobs = sample_tokens(
        LOGITS.expand(3, -1), drawing(*[SampleSpec([1], temperature=2.0, top_k=2)] * 3), [0, 1, 2]
    )
    torch.testing.assert_close(logprobs, LOGITS.log_softmax(-1)[tokens])


def test_tokens_that_tie_with_the_last_stay() -> None:
    seen = frequencies(SampleSpec([1], top_k=2), torch.tensor([3.0, 1.0, 1.0, 0.0]))
    assert (seen > 0).tolist() == [True, True, True, False]


def test_the_ends_of_the_distribution_are_tokens_that_can_come() -> None:
    """A chance of almost 1 must not fall on a token without one."""
    weights = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]])
    assert pick_tokens(
        weights, torch.tensor([[0.0, float(np.nextafter(np.float32(1), np.float32(0)))]])
    ).tolist() == [[1, 3]]


def test_streams_are_uniform_and_not_alike() -> None:
    steps = np.arange(50_000, dtype=np.uint64)
    one, other = (uniforms(random_key(3, index), steps) for index in (0, 1))
    assert 0 <= one.min() < 0.001 < 0.999 < one.max() < 1
    assert np.histogram(one, 10, (0, 1))[0].std() < 150
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.02
    assert np.array_equal(one, uniforms(random_key(3, 0), steps))
    assert random_key(None, 0) != random_key(None, 0)
    assert random_key(-1, 0) == random_key(2**64 - 1, 0)


def rule(calls: list[int], **stops: object) -> StopRule:
    """Tokens are bytes."""

    def decode(tokens: object) -> str:
        text = bytes(tokens)  # pyright: ignore
        calls.append(len(text))
        return text.decode(errors="replace")

    return StopRule(SampleSpec([1], **stops), frozenset({0}), decode)  # pyright: ignore


def end_of(text: str, **stops: object) -> tuple[int | None, list[int]]:
    """How many bytes there are when it ends, and how many were decoded each time."""
    calls: list[int] = []
    stop, tokens = rule(calls, **stops), list(text.encode())
    return next(
        (count for count in range(1, len(tokens) + 1) if stop.ends(tokens[:count])), None
    ), calls


@pytest.mark.parametrize(
    ("text", "stops", "end"),
    [
        ("ab\0cd", {}, 3),
        ("ab\0cd", {"stop_tokens": []}, None),
        ("ab\0cd", {"stop_strings": ["d"]}, 5),
        ("abcabd", {"stop_strings": ["abd", "x"]}, 6),
        ("abcabd", {"stop_tokens": [99], "stop_strings": ["abd"]}, 3),
        ("one two three", {"stop_strings": ["two "]}, 8),
        ("naïve café", {"stop_strings": ["é"]}, 12),
        ("naïve", {"stop_strings": ["ïv"]}, 5),
    ],
)
def test_a_sample_ends_at_its_stop(text: str, stops: dict[str, object], end: int | None) -> None:
    assert end_of(text, **stops)[0] == end


def test_little_is_decoded_to_find_a_stop_string() -> None:
    end, calls = end_of("a" * 500 + "b" * 500, stop_strings=["bc"])
    assert end is None
    assert calls == [1, 1], "neither letter ends the stop string: each is decoded once"
    _, calls = end_of("ab" * 500, stop_strings=["xb"])
    assert max(calls) <= 4 * 2 + 4
