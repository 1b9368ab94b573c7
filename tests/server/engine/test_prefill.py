"""Results do not depend on the number of prefill passes, nor on the other prompts in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
import torch

from tinkex_server.engine.interface import LoraShape, SampleSpec
from tinkex_server.engine.torch.adapter import Adapter, LayerWeights
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.batcher import BatchBudget
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.mixed_adapters import AdapterPlanner
from tinkex_server.engine.torch.prefill import Prefill
from tinkex_server.engine.torch.prefix_cache import PrefixCache
from tinkex_server.engine.torch.prompt_scoring import PromptScores
from tinkex_server.engine.torch.sample_request import SampleRequest
from tinkex_server.engine.torch.stopping import StopRule

TEXT = list(b"forty two is 42, and one hundred is 100\n")


@pytest.fixture(scope="module")
def base() -> LoadedBaseModel:
    return LoadedBaseModel.load("tinkex/tiny", "cpu")


@pytest.fixture(scope="module")
def adapter(base: LoadedBaseModel) -> Adapter:
    new = base.new_adapter(LoraShape(rank=4, seed=1))
    random = torch.Generator().manual_seed(1)
    return Adapter(
        4,
        32,
        {
            name: LayerWeights(a.detach(), torch.randn(b.shape, generator=random) * 0.05)
            for name, (a, b) in new.layers.items()
        },
    )


@pytest.fixture
def engine_with_budget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], TorchEngine]]:
    """Makes engines that sample from the base model and read so many tokens a prefill pass."""
    with ExitStack() as stack:

        def make(prefill_tokens: int) -> TorchEngine:
            budget = BatchBudget(prefill_tokens=prefill_tokens)
            monkeypatch.setattr(BatchBudget, "of", classmethod(lambda cls, base: budget))
            engine = stack.enter_context(closing(TorchEngine(["tinkex/tiny"], "cpu")))
            engine.load_sampler("base", "tinkex/tiny", None)
            return engine

        yield make


def request(adapter: Adapter | None, prompt: Sequence[int], **spec: Any) -> SampleRequest:
    whole = SampleSpec(prompt, max_tokens=1, **spec)
    return SampleRequest(adapter, whole, 1, StopRule(whole, frozenset(), lambda tokens: ""))


def read(
    base: LoadedBaseModel, requests: Sequence[SampleRequest], tokens: int
) -> tuple[Prefill, int]:
    """Returns a completed prefill and its number of passes."""
    prefill, passes = (
        Prefill(base, AdapterPlanner(base.device), PrefixCache(0), requests, tokens),
        1,
    )
    while not prefill.advance():
        passes += 1
    return prefill, passes


def assert_same(ours: PromptScores, theirs: PromptScores) -> None:
    """Asserts equality up to rounding."""
    assert [part is None for part in ours] == [part is None for part in theirs]
    for one, other in ((ours.logprobs, theirs.logprobs), (ours.targets, theirs.targets)):
        if one is not None:
            np.testing.assert_allclose(np.array(one, float), np.array(other, float), atol=1e-4)
    for one, other in zip(ours.topk or [], theirs.topk or [], strict=True):
        assert [token for token, _ in one or ()] == [token for token, _ in other or ()]
    for one, other in zip(ours.alternatives or (), theirs.alternatives or (), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


ASKED: list[dict[str, Any]] = [
    {},
    {"prompt_logprobs": True},
    {"prompt_logprobs": True, "topk_prompt_logprobs": 3, "prompt_logprobs_last_n": 1},
    {"prompt_logprobs": True, "topk_prompt_logprobs": 2, "prompt_logprobs_last_n": 9},
    {"prompt_alt_tokens_k": 3, "seed": 5, "temperature": 1.3},
    {"prompt_alt_tokens_k": 1, "temperature": 0.0},
    {"target_prompt_tokens": np.arange(2 * len(TEXT) - 2).reshape(-1, 2) % 256 - 1},
]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("tokens", [1, 7, len(TEXT) - 1, len(TEXT)])
def test_a_prompt_read_in_several_passes_is_as_one_read_at_once(
    base: LoadedBaseModel, adapter: Adapter, tokens: int, asked: dict[str, Any]
) -> None:
    whole, parts = request(adapter, TEXT, **asked), request(adapter, TEXT, **asked)
    at_once, _ = read(base, [whole], 1000)
    in_parts, passes = read(base, [parts], tokens)
    assert passes == -(-len(TEXT) // tokens)
    torch.testing.assert_close(in_parts.logits, at_once.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        in_parts.cache.layers[-1].values, at_once.cache.layers[-1].values, atol=1e-4, rtol=1e-4
    )
    assert_same(parts.prompt_scores, whole.prompt_scores)


def test_equal_prompts_under_one_adapter_are_read_once_and_each_gets_its_own_answers(
    base: LoadedBaseModel, adapter: Adapter
) -> None:
    specs: list[tuple[Adapter | None, list[int], dict[str, Any]]] = [
        (adapter, TEXT, {"prompt_logprobs": True}),
        (None, TEXT, {}),
        (adapter, TEXT[:9], {"prompt_logprobs": True}),
        (adapter, TEXT, {"topk_prompt_logprobs": 2}),
        (None, TEXT, {"prompt_alt_tokens_k": 2, "seed": 3}),
    ]
    together = [request(adapter, prompt, **asked) for adapter, prompt, asked in specs]
    prefill, passes = read(base, together, 1000)
    assert (prefill.rows, len(prefill.logits), passes) == ([0, 1, 2, 0, 1], 3, 1)
    for row, ours, (adapter_, prompt, asked) in zip(prefill.rows, together, specs, strict=True):
        theirs = request(adapter_, prompt, **asked)
        alone, _ = read(base, [theirs], 1000)
        torch.testing.assert_close(prefill.logits[row], alone.logits[0], atol=1e-4, rtol=1e-4)
        assert_same(ours.prompt_scores, theirs.prompt_scores)


def test_samples_under_way_get_their_tokens_while_a_long_prompt_is_read(
    engine_with_budget: Callable[[int], TorchEngine],
) -> None:
    engine = engine_with_budget(32)
    heard, begun = list[int](), threading.Event()

    def listen(token: int, logprob: float) -> None:
        heard.append(token)
        begun.set()

    under_way = engine.sample("base", SampleSpec(TEXT, max_tokens=900, stop_tokens=[]), listen)
    assert begun.wait(60)
    before = len(heard)
    # one that does not begin like the other, or fewer passes would read it
    long = TEXT[::-1] * 16
    engine.sample("base", SampleSpec(long, max_tokens=1)).result(60)
    assert len(heard) - before >= len(long) // 32 - 1, "one step at least between two passes"
    under_way.cancel()


def test_a_short_prompt_does_not_wait_until_a_long_one_is_read(
    monkeypatch: pytest.MonkeyPatch, engine_with_budget: Callable[[int], TorchEngine]
) -> None:
    engine = engine_with_budget(8)
    begun, resume, ended = threading.Event(), threading.Event(), list[str]()
    advance = Prefill.advance

    def held(prefill: Prefill) -> bool:
        begun.set()
        assert resume.wait(60)
        return advance(prefill)

    monkeypatch.setattr(Prefill, "advance", held)
    futures = {"long": engine.sample("base", SampleSpec(TEXT * 4, max_tokens=1))}
    try:
        assert begun.wait(60)
        futures["short"] = engine.sample("base", SampleSpec(TEXT[:5], max_tokens=1))
        for name, future in futures.items():
            future.add_done_callback(lambda _, name=name: ended.append(name))
    finally:
        resume.set()  # or closing the engine would wait for the pass that is held
    for future in futures.values():
        future.result(60)
    assert ended == ["short", "long"]


def test_a_long_prompt_that_nobody_waits_for_any_more_is_read_no_further(
    monkeypatch: pytest.MonkeyPatch, engine_with_budget: Callable[[int], TorchEngine]
) -> None:
    engine = engine_with_budget(8)
    passes, begun = list[int](), threading.Event()
    advance = Prefill.advance

    def counted(prefill: Prefill) -> bool:
        passes.append(len(prefill.requests[0].spec.prompt))
        begun.set()
        return advance(prefill)

    monkeypatch.setattr(Prefill, "advance", counted)
    long = engine.sample("base", SampleSpec(TEXT * 20, max_tokens=1))
    assert begun.wait(60)
    assert long.cancel()
    engine.sample("base", SampleSpec(TEXT[:5], max_tokens=1)).result(60)
    assert passes.count(len(TEXT) * 20) < len(TEXT) * 20 / 8
