"""Samples that grow together do not know of each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinkex_server.engine.interface import (
    AdamSettings,
    Example,
    InvalidRequest,
    LoraShape,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.torch.batcher import BatchBudget, RequestSize, count_admissible
from tinkex_server.engine.torch.engine import TorchEngine

TEXT = np.frombuffer(b"forty two is 42\n", dtype=np.uint8).astype(np.int64)
BATCH = [Example(TEXT[:-1], {"target_tokens": TEXT[1:]})] * 2
PROMPTS = [
    list(b"The hacker"),
    list(b"A"),
    list(b"forty two is "),
    list(b"Once upon a time there was"),
]
SAMPLERS = ["base", "small", "large"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    """Yields an engine with a sampler of the base model and two of slightly trained adapters, of
    different ranks and layers.
    """
    engine, folder = TorchEngine(["tinkex/tiny"], "cpu"), tmp_path_factory.mktemp("samplers")
    engine.load_sampler("base", "tinkex/tiny", None)
    for name, shape in (
        ("small", LoraShape(2, seed=1, train_mlp=False)),
        ("large", LoraShape(16, seed=2)),
    ):
        engine.create_model(name, "tinkex/tiny", shape)
        engine.forward_backward(name, BATCH, "cross_entropy", {}, backward=True)
        engine.optim_step(name, AdamSettings(learning_rate=3e-3))
        engine.save_model(name, folder / name, optimizer=False)
        engine.load_sampler(name, "tinkex/tiny", folder / name)
    yield engine
    engine.close()


def specs() -> list[tuple[str, SampleSpec]]:
    """Requests of many kinds."""
    settings: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 1},
        {"seed": 2, "top_k": 5, "temperature": 0.7},
        {"seed": 3, "top_p": 0.8, "num_samples": 3, "topk_sample_logprobs": 2},
        {"seed": 4, "temperature": 1.5, "prompt_logprobs": True, "topk_prompt_logprobs": 3},
        {"seed": 5, "stop_strings": ["e"], "prompt_alt_tokens_k": 2},
    ]
    return [
        (SAMPLERS[index % 3], SampleSpec(PROMPTS[index % 4], max_tokens=4 + index, **setting))
        for index, setting in enumerate(settings)
    ]


def together(engine: TorchEngine, requests: list[tuple[str, SampleSpec]]) -> list[SampleResult]:
    """Returns the results, in order, of requests that run at the same time."""
    return [
        future.result(60) for future in [engine.sample(sampler, spec) for sampler, spec in requests]
    ]


def assert_same(one: SampleResult, other: SampleResult) -> None:
    """Asserts the same tokens, and the same logprobs up to rounding."""
    for ours, theirs in zip(one.sequences, other.sequences, strict=True):
        assert (ours.tokens, ours.stop_reason) == (theirs.tokens, theirs.stop_reason)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)
        if ours.topk_logprobs is not None and theirs.topk_logprobs is not None:
            assert [[token for token, _ in top] for top in ours.topk_logprobs] == [
                [token for token, _ in top] for top in theirs.topk_logprobs
            ]
    if one.prompt_logprobs is not None and other.prompt_logprobs is not None:
        np.testing.assert_allclose(one.prompt_logprobs[1:], other.prompt_logprobs[1:], atol=1e-4)  # pyright: ignore
    if one.prompt_alt_tokens is not None and other.prompt_alt_tokens is not None:
        np.testing.assert_array_equal(one.prompt_alt_tokens[0], other.prompt_alt_tokens[0])


def test_a_seed_gives_the_same_tokens_alone_in_a_crowd_and_in_another_order(
    engine: TorchEngine,
) -> None:
    alone = [together(engine, [request])[0] for request in specs()]
    crowd = [("base", SampleSpec(PROMPTS[index % 4], max_tokens=index)) for index in range(1, 9)]
    for first, second in zip(together(engine, specs() + crowd), alone, strict=False):
        assert_same(first, second)
    for first, second in zip(
        together(engine, crowd + specs()[::-1])[len(crowd) :], alone[::-1], strict=True
    ):
        assert_same(first, second)


def test_each_adapter_gives_its_own_model_logprobs(engine: TorchEngine) -> None:
    """A sample's logprobs, in a batch of all samplers, are those that training computes for the
    same tokens.
    """
    requests = [
        (name, SampleSpec(PROMPTS[row], max_tokens=6, seed=row))
        for row, name in enumerate(["small", "large", "small"])
    ]
    for (name, spec), result in zip(requests, together(engine, requests), strict=True):
        tokens = np.array([*spec.prompt, *result.sequences[0].tokens], np.int64)
        example = Example(tokens[:-1], {"target_tokens": tokens[1:]})
        trained = engine.forward_backward(
            name, [example], "cross_entropy", {}, backward=False
        ).loss_fn_outputs[0]["logprobs"]
        np.testing.assert_allclose(
            result.sequences[0].logprobs, trained[len(spec.prompt) - 1 :], atol=1e-4
        )


def test_the_samples_of_one_request_differ_and_are_the_same_again(engine: TorchEngine) -> None:
    spec = SampleSpec(PROMPTS[0], num_samples=5, max_tokens=8, seed=9)
    first, second = together(engine, [("base", spec), ("base", spec)])
    assert_same(first, second)
    assert len({tuple(sample.tokens) for sample in first.sequences}) == 5
    unseeded = SampleSpec(PROMPTS[0], max_tokens=16)
    one, other = together(engine, [("base", unseeded)] * 2)
    assert one.sequences[0].tokens != other.sequences[0].tokens


def test_cancelled_samples_end_and_the_others_go_on(engine: TorchEngine) -> None:
    heard = threading.Semaphore(0)
    long = SampleSpec(PROMPTS[0], max_tokens=900, stop_tokens=[])
    future = engine.sample("base", long, lambda token, logprob: heard.release())
    beside = engine.sample("large", SampleSpec(PROMPTS[1], max_tokens=5, stop_tokens=[]))
    assert heard.acquire(timeout=60)
    assert future.cancel()
    assert len(beside.result(60).sequences[0].tokens) == 5
    while heard.acquire(blocking=False):
        pass
    together(engine, [("base", SampleSpec(PROMPTS[1], max_tokens=3, stop_tokens=[]))])
    assert not heard.acquire(blocking=False), "it goes on after it was cancelled"


def test_a_stream_gets_each_token_as_it_comes(engine: TorchEngine) -> None:
    heard: list[tuple[int, float]] = []
    result = engine.sample(
        "small", SampleSpec(PROMPTS[0], max_tokens=7, seed=1), lambda *token: heard.append(token)
    ).result(60)
    assert heard == list(zip(result.sequences[0].tokens, result.sequences[0].logprobs, strict=True))


def test_a_listener_that_fails_fails_its_own_request_only(engine: TorchEngine) -> None:
    def broken(token: int, logprob: float) -> None:
        raise ZeroDivisionError("the listener broke")

    future = engine.sample("base", SampleSpec(PROMPTS[0], max_tokens=4), broken)
    assert (
        len(
            together(engine, [("base", SampleSpec(PROMPTS[0], max_tokens=4, stop_tokens=[]))])[0]
            .sequences[0]
            .tokens
        )
        == 4
    )
    with pytest.raises(ZeroDivisionError):
        future.result(60)


def test_samples_keep_the_weights_that_they_began_with(engine: TorchEngine, tmp_path: Path) -> None:
    for name, rank_seed in (("old", 5), ("new", 6)):
        engine.create_model(name, "tinkex/tiny", LoraShape(4, seed=rank_seed))
        for _ in range(3):
            engine.forward_backward(name, BATCH, "cross_entropy", {}, backward=True)
            engine.optim_step(name, AdamSettings(learning_rate=1e-2))
        engine.save_model(name, tmp_path / name, optimizer=False)
    spec = SampleSpec(PROMPTS[0], max_tokens=60, stop_tokens=[], seed=3)
    engine.load_sampler("live", "tinkex/tiny", tmp_path / "old")
    [of_old] = together(engine, [("live", spec)])
    begun = threading.Event()
    under_way = engine.sample("live", spec, lambda *_: begun.set())
    assert begun.wait(60)
    engine.load_sampler("live", "tinkex/tiny", tmp_path / "new")
    [of_new] = together(engine, [("live", spec)])
    engine.unload_sampler("live")
    assert_same(under_way.result(60), of_old)
    assert of_new.sequences[0].tokens != of_old.sequences[0].tokens
    with pytest.raises(InvalidRequest, match="unknown sampler"):
        engine.sample("live", spec).result()


def test_training_goes_on_while_samples_are_drawn(engine: TorchEngine, tmp_path: Path) -> None:
    engine.create_model("busy", "tinkex/tiny", LoraShape(16, seed=3))
    engine.save_model("busy", tmp_path / "busy", optimizer=False)
    engine.load_sampler("busy", "tinkex/tiny", tmp_path / "busy")
    spec = SampleSpec(PROMPTS[0], max_tokens=40, stop_tokens=[], seed=3)
    [alone] = together(engine, [("busy", spec)])
    under_way = engine.sample("busy", spec)
    while not under_way.done():
        engine.forward_backward("busy", BATCH, "cross_entropy", {}, backward=True)
        engine.optim_step("busy", AdamSettings(learning_rate=1e-2))
    assert_same(under_way.result(), alone)


def test_a_faulty_request_does_not_affect_others(engine: TorchEngine) -> None:
    wrong = SampleSpec(PROMPTS[0], max_tokens=3, target_prompt_tokens=np.full((9, 1), 1000))
    right = SampleSpec(PROMPTS[0], max_tokens=3, stop_tokens=[])
    futures = [engine.sample("base", spec) for spec in (wrong, right)]
    with pytest.raises(InvalidRequest, match="must contain token ids"):
        futures[0].result(60)
    assert len(futures[1].result(60).sequences[0].tokens) == 3


def test_weights_that_have_diverged_fail_their_own_samples(
    engine: TorchEngine, tmp_path: Path
) -> None:
    engine.create_model("diverged", "tinkex/tiny", LoraShape(2, seed=1))
    engine.forward_backward("diverged", BATCH, "cross_entropy", {}, backward=True)
    engine.optim_step("diverged", AdamSettings(learning_rate=1e30))
    engine.save_model("diverged", tmp_path / "diverged", optimizer=False)
    engine.load_sampler("diverged", "tinkex/tiny", tmp_path / "diverged")
    spec = SampleSpec(PROMPTS[0], max_tokens=8, seed=1, stop_tokens=[])
    [alone] = together(engine, [("base", spec)])
    futures = [engine.sample(name, spec) for name in ("diverged", "base")]
    with pytest.raises(InvalidRequest, match="diverged"):
        futures[0].result(60)
    assert_same(futures[1].result(60), alone)


def test_a_sample_of_no_tokens_is_allowed(engine: TorchEngine) -> None:
    [result] = together(
        engine, [("base", SampleSpec(PROMPTS[0], max_tokens=0, prompt_logprobs=True))]
    )
    assert (result.sequences[0].tokens, result.sequences[0].stop_reason) == ([], "length")
    assert result.prompt_logprobs is not None


def test_closing_cancels_the_samples_in_progress() -> None:
    engine = TorchEngine(["tinkex/tiny"], "cpu")
    engine.load_sampler("base", "tinkex/tiny", None)
    begun = threading.Event()
    spec = SampleSpec(PROMPTS[0], max_tokens=900, stop_tokens=[])
    futures: list[Future[SampleResult]] = [
        engine.sample("base", spec, lambda *_: begun.set()) for _ in range(3)
    ]
    assert begun.wait(60)
    engine.close()
    assert all(future.cancelled() for future in futures)


LIMITS = BatchBudget(samples=8, cached_tokens=800, prefill_tokens=100, scored_prefill_tokens=50)


@pytest.mark.parametrize(
    ("waiting", "running", "count"),
    [
        ([RequestSize(1, 50, 10)] * 3, RequestSize(0, 0), 3),
        ([RequestSize(1, 50, 10)] * 20, RequestSize(0, 0), 8),
        ([RequestSize(1, 50, 10)] * 20, RequestSize(6, 50), 2),
        # padded to the longest, two are all that there is memory for
        ([RequestSize(1, 50, 10)] * 20, RequestSize(1, 400), 1),
        # the first does not fit, and nobody overtakes it
        ([RequestSize(1, 400, 10), RequestSize(1, 50, 10)], RequestSize(3, 50), 0),
        # one pass reads so much
        (
            [RequestSize(1, 60, 50), RequestSize(1, 60, 49), RequestSize(1, 60, 5)],
            RequestSize(0, 0),
            2,
        ),
        ([RequestSize(1, 60, 50)] * 3, RequestSize(0, 0), 3),  # one prompt, which is read once
        # likewise, in several passes, with no other prompt
        ([RequestSize(1, 120, 110)] * 3 + [RequestSize(1, 10, 5)], RequestSize(0, 0), 3),
        ([RequestSize(1, 60, 10), RequestSize(1, 60, 30, scored=True)], RequestSize(0, 0), 1),
        ([RequestSize(20, 1000, 500)], RequestSize(0, 0), 1),  # too large for all bounds: alone
        ([RequestSize(20, 1000, 500)], RequestSize(1, 10), 0),
        ([RequestSize(20, 1000, 500), RequestSize(1, 10, 5)], RequestSize(0, 0), 1),
    ],
)
def test_samples_join_as_long_as_there_is_room(
    waiting: list[RequestSize], running: RequestSize, count: int
) -> None:
    assert count_admissible(waiting, running, LIMITS) == count


def test_a_queue_beyond_the_limit_is_served_eventually(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More samples than may be under way at once."""
    monkeypatch.setattr("tinkex_server.engine.torch.batcher._CACHE_BYTES", 1 << 20)
    small = TorchEngine(["tinkex/tiny"], "cpu")
    small.load_sampler("base", "tinkex/tiny", None)
    requests = [
        ("base", SampleSpec(PROMPTS[index % 4], 2, 3 + index % 5, seed=index))
        for index in range(24)
    ]
    for ours, theirs in zip(together(small, requests), together(engine, requests), strict=True):
        assert_same(ours, theirs)
    small.close()


def test_bfloat16_samples(tmp_path: Path) -> None:
    engine = TorchEngine(["tinkex/tiny"], "cpu", "bfloat16")
    engine.load_sampler("base", "tinkex/tiny", None)
    results = together(
        engine,
        [
            ("base", SampleSpec(PROMPTS[row], max_tokens=6, stop_tokens=[], temperature=0.0))
            for row in (0, 1)
        ],
    )
    assert [len(result.sequences[0].tokens) for result in results] == [6, 6]
    assert all(
        torch.isfinite(torch.tensor(result.sequences[0].logprobs)).all() for result in results
    )
    engine.close()
