"""Prompts that begin like earlier ones are computed from where they differ, with equal results."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

import tinkex
from tests.support.small_models import SMALL_SHAPE
from tinkex.local import Server
from tinkex_server.engine.interface import (
    AdamSettings,
    Example,
    LoraShape,
    SampleResult,
    SampleSpec,
)
from tinkex_server.engine.torch.adapter import Adapter
from tinkex_server.engine.torch.batcher import BatchBudget
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.prefix_cache import PrefixCache, Prompt

TINY = Path(__file__).parents[3] / "tinkex" / "tiny"
SHARED = list(b"The hackers had a party, and forty two of them came to it. ") * 4
PROMPTS = [
    [*SHARED, *b"A"],
    [*SHARED, *b"Another one, which is longer"],
    SHARED,  # of which the last token must be computed, for its logits
    [*SHARED[:100], *b"and that is where they differ"],
    list(b"Nothing in common"),
    [*SHARED, *b"Another one, which is longer than that"],
]
SHAPE = {**SMALL_SHAPE, "max_position_embeddings": 400}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "sliding window": MistralConfig(**SHAPE, sliding_window=6),
    "sliding and full layers": Qwen2Config(
        **SHAPE,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "learned positions": GPT2Config(
        vocab_size=257,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=400,
        eos_token_id=256,
        bos_token_id=256,
        initializer_range=0.3,
    ),
}

MakeEngine = Callable[..., TorchEngine]


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeEngine]:
    """Makes engines that keep so many bytes of prompts."""
    with ExitStack() as stack:

        def make(prefix_bytes: int, model: str = "tinkex/tiny", **budget: int) -> TorchEngine:
            bounds = BatchBudget(prefix_bytes=prefix_bytes, **budget)
            monkeypatch.setattr(BatchBudget, "of", classmethod(lambda cls, base: bounds))
            engine = stack.enter_context(closing(TorchEngine([model], "cpu")))
            engine.load_sampler("base", model, None)
            return engine

        yield make


def one_after_another(
    engine: TorchEngine, prompts: Sequence[Sequence[int]], sampler: str = "base", **asked: Any
) -> list[SampleResult]:
    return [future.result(60) for future in map(_start(engine, sampler, asked), prompts)]


def at_once(
    engine: TorchEngine, prompts: Sequence[Sequence[int]], sampler: str = "base", **asked: Any
) -> list[SampleResult]:
    futures = list(map(_start(engine, sampler, asked), prompts))
    return [future.result(60) for future in futures]


def _start(
    engine: TorchEngine, sampler: str, asked: dict[str, Any]
) -> Callable[[Sequence[int]], Future[SampleResult]]:
    settings = {"max_tokens": 6, "seed": 1, "stop_tokens": [], **asked}
    return lambda prompt: engine.sample(sampler, SampleSpec(prompt, **settings))


def hits(results: Sequence[SampleResult]) -> list[int]:
    return [result.prompt_cache_hit_tokens for result in results]


def assert_same(ours: Sequence[SampleResult], theirs: Sequence[SampleResult]) -> None:
    """Asserts the same tokens, and the same logprobs up to rounding."""
    for one, other in zip(ours, theirs, strict=True):
        for own, expected in zip(one.sequences, other.sequences, strict=True):
            assert own.tokens == expected.tokens
            np.testing.assert_allclose(own.logprobs, expected.logprobs, atol=1e-4)


def saved_model(config: PreTrainedConfig, folder: Path) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", CONFIGS)
def test_samples_are_those_of_an_engine_that_keeps_nothing(
    kind: str, make_engine: MakeEngine, tmp_path: Path
) -> None:
    model = saved_model(CONFIGS[kind], tmp_path)
    keeps, forgets = make_engine(1 << 26, model), make_engine(0, model)
    expected = one_after_another(forgets, PROMPTS)
    assert hits(expected) == [0] * len(PROMPTS)
    found = one_after_another(keeps, PROMPTS)
    assert_same(found, expected)
    assert hits(found) == [0, len(SHARED) + 1, len(SHARED) - 1, 100, 0, len(PROMPTS[1])]
    # together they are padded, and as many columns are reused as all of them have
    assert_same(at_once(keeps, PROMPTS), expected)
    assert_same(at_once(make_engine(1 << 26, model), PROMPTS), expected)


def test_of_prompts_that_arrive_together_the_common_beginning_is_computed_once(
    make_engine: MakeEngine,
) -> None:
    prompts = [[*SHARED, *b"Number %d" % number] for number in range(100, 164)]
    engine = make_engine(1 << 26)
    found = at_once(engine, prompts)
    assert_same(found, one_after_another(make_engine(0), prompts))
    assert hits(found)[0] == 0
    assert min(hits(found)[1:]) >= len(SHARED)


def test_a_prompt_of_several_passes_is_reused_even_by_one_that_waits_for_it(
    make_engine: MakeEngine,
) -> None:
    prompts = [[*SHARED, *b"Number %d" % number] for number in range(10, 14)]
    found = at_once(make_engine(1 << 26, prefill_tokens=50), prompts)
    assert_same(found, one_after_another(make_engine(0), prompts))
    assert hits(found)[0] == 0
    assert min(hits(found)[1:]) >= len(SHARED)


def train(engine: TorchEngine, folder: Path, seed: int) -> None:
    text = np.array(SHARED[:40])
    batch = [Example(text[:-1], {"target_tokens": text[1:]})]
    engine.forward_backward("model", batch, "cross_entropy", {}, backward=True)
    engine.optim_step("model", AdamSettings(learning_rate=1e-2))
    engine.save_model("model", folder / str(seed), optimizer=False)
    engine.load_sampler("live", "tinkex/tiny", folder / str(seed))


def test_each_state_of_an_adapter_and_the_base_model_have_their_own(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """The sampler that is loaded again after a training step has the same id, and so has the model;
    the logprobs are compared with those of training.
    """
    engine = make_engine(1 << 26)
    engine.create_model("model", "tinkex/tiny", LoraShape(4, seed=1))
    prompt = PROMPTS[1]
    seen = set[float]()
    for step in range(3):
        train(engine, tmp_path, step)
        for known in (0, len(prompt) - 1):
            [found] = one_after_another(engine, [prompt], "live")
            assert found.prompt_cache_hit_tokens == known
            tokens = np.array([*prompt, *found.sequences[0].tokens])
            example = Example(tokens[:-1], {"target_tokens": tokens[1:]})
            trained = engine.forward_backward(
                "model", [example], "cross_entropy", {}, backward=False
            ).loss_fn_outputs[0]["logprobs"]
            np.testing.assert_allclose(
                found.sequences[0].logprobs, trained[len(prompt) - 1 :], atol=1e-4
            )
        seen.add(round(found.sequences[0].logprobs[0], 3))
        assert hits(one_after_another(engine, [prompt])) == [0 if step == 0 else len(prompt) - 1]
    assert len(seen) == 3


def test_prompts_of_several_adapters_share_a_pass(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine(1 << 26)
    engine.create_model("model", "tinkex/tiny", LoraShape(4, seed=1))
    train(engine, tmp_path, 0)
    alone = {name: one_after_another(engine, PROMPTS[:2], name) for name in ("base", "live")}
    futures = {name: list(map(_start(engine, name, {}), PROMPTS[:2])) for name in ("live", "base")}
    for name, begun in futures.items():
        found = [future.result(60) for future in begun]
        assert_same(found, alone[name])
        # as many as are left of the longest prompt are computed of all
        assert hits(found) == [len(PROMPTS[0]) - 1, len(PROMPTS[1]) - 1]
    assert alone["base"][0].sequences[0].logprobs != alone["live"][0].sequences[0].logprobs


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt_logprobs": True},
        {"topk_prompt_logprobs": 2},
        {"prompt_alt_tokens_k": 2},
        {"prompt_logprobs": True, "prompt_logprobs_last_n": 3},
    ],
)
def test_a_prompt_that_is_scored_is_computed_whole(
    make_engine: MakeEngine, asked: dict[str, Any]
) -> None:
    engine = make_engine(1 << 26)
    [first] = one_after_another(engine, PROMPTS[:1], **asked)
    [again] = one_after_another(engine, PROMPTS[:1], **asked)
    # one that is not scored has the same prompt, and one that is not has another, in the same pass
    both = [
        _start(engine, "base", settings)(PROMPTS[0]) for settings in ({}, asked, {"num_samples": 2})
    ]
    unscored, scored, _ = [future.result(60) for future in both]
    for one in (again, scored):
        assert one.prompt_cache_hit_tokens == 0
        assert_same([one], [first])
        np.testing.assert_equal(
            one.topk_prompt_logprobs is None, first.topk_prompt_logprobs is None
        )
        if first.prompt_logprobs:
            assert one.prompt_logprobs
            np.testing.assert_allclose(
                np.array(one.prompt_logprobs, float),
                np.array(first.prompt_logprobs, float),
                atol=1e-4,
            )
        if first.prompt_alt_tokens:
            assert one.prompt_alt_tokens
            np.testing.assert_array_equal(one.prompt_alt_tokens[0], first.prompt_alt_tokens[0])
    assert_same([unscored], [first])
    assert hits(one_after_another(engine, PROMPTS[:1])) == [len(PROMPTS[0]) - 1]


def test_the_bound_is_kept_while_prompts_come(make_engine: MakeEngine) -> None:
    tokens, per_token = 300, 3072 + 8
    engine = make_engine(tokens * per_token)
    [batcher] = engine._batchers.values()
    prompts = [[number, *SHARED[: 40 * number]] for number in range(1, 7)]
    expected = one_after_another(make_engine(0), prompts)
    for _ in range(2):
        assert_same(one_after_another(engine, prompts), expected)
        assert 0 < batcher._prefixes.bytes <= tokens * per_token
    # the one that was used last is there, the one before had no room beside it
    assert hits(one_after_another(engine, [prompts[-1], prompts[-2]])) == [len(prompts[-1]) - 1, 0]


def test_clients_are_told_what_was_not_computed(torch_server: Server) -> None:
    prompt = tinkex.ModelInput.from_ints([*SHARED, *b"as asked over HTTP"])
    with tinkex.ServiceClient(base_url=torch_server.base_url, api_key="tml-local") as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        told: list[int] = []
        for _ in range(2):
            sampler = trainer.save_weights_and_get_sampling_client()
            for _ in range(2):
                response = sampler.sample(prompt, 1, {"max_tokens": 1}).result()
                told.append(response.prompt_cache_hit_tokens)
    assert told == [0, prompt.length - 1] * 2


# the tree itself, with states that tell to which prompt they belong


def states_of(prompt: Prompt, mark: float) -> list[Tensor]:
    """Returns states of two tensors of different shapes: the sums of the tokens so far, which
    differ for prompts that differ anywhere before.
    """
    sums = torch.from_numpy(np.cumsum(prompt * np.arange(1, len(prompt) + 1))).double() + mark
    return [sums[None, :, None].expand(2, -1, 3), sums[None, :, None].expand(1, -1, 5)]


def bytes_of(tokens: int) -> int:
    return tokens * (8 + 8 * (2 * 3 + 1 * 5))


def adapter() -> Adapter:
    return Adapter(1, 1.0, {})


def read_prompt(cache: PrefixCache, owner: Adapter | None, prompt: Prompt, mark: float) -> int:
    """Uses a prompt as a prefill does; returns how many of its tokens were known."""
    known = cache.count(owner, prompt)
    if known:
        gathered = cache.gather([(owner, prompt[:known]), (None, prompt[:0])], known + 2)
        for found, whole in zip(gathered, states_of(prompt, mark), strict=True):
            torch.testing.assert_close(found[0, :, 2:], whole[:, :known])
            assert not found[0, :, :2].any()
            assert not found[1].any()
    cache.add(owner, prompt, states_of(prompt, mark))
    return known


def test_what_is_known_of_random_prompts_is_what_was_kept() -> None:
    random = np.random.default_rng(0)
    beginnings = [random.integers(0, 3, 60) for _ in range(4)]
    owners: list[Adapter | None] = [None, adapter(), adapter()]
    unbounded, bounded = PrefixCache(1 << 30), PrefixCache(bytes_of(400))
    earlier: list[list[Prompt]] = [[], [], []]
    known_to_bounded = 0
    for _ in range(300):
        index = int(random.integers(3))
        beginning = beginnings[random.integers(4)][: random.integers(60)]
        prompt = np.concatenate([beginning, random.integers(0, 3, random.integers(1, 60))])
        known = read_prompt(unbounded, owners[index], prompt, index)
        known_to_bounded += read_prompt(bounded, owners[index], prompt, index)
        common = max((_common(prompt, other) for other in earlier[index]), default=0)
        # ends of fewer than 16 tokens are not kept
        assert common - 16 < known <= common or (known == 0 and common < 32)
        earlier[index].append(prompt)
        assert 0 < bounded.bytes <= bytes_of(400)
    assert known_to_bounded > 0
    assert (
        bounded.bytes
        < unbounded.bytes
        < bytes_of(sum(len(prompt) for prompts in earlier for prompt in prompts))
    )


def _common(one: Prompt, other: Prompt) -> int:
    count = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        count += 1
    return count


def test_the_prompts_used_longest_ago_are_dropped_first() -> None:
    cache = PrefixCache(bytes_of(100))
    first, second, third = (np.full(40, number) for number in range(3))
    read_prompt(cache, None, first, 0)
    read_prompt(cache, None, second, 0)
    assert read_prompt(cache, None, first, 0) == 40
    read_prompt(cache, None, third, 0)
    assert [cache.count(None, prompt) for prompt in (first, second, third)] == [40, 0, 40]
    assert cache.bytes == bytes_of(80)
    # of a prompt that is too long, the beginning is kept
    read_prompt(cache, None, np.arange(1000), 0)
    assert cache.count(None, np.arange(1000)) == 100
    assert cache.bytes == bytes_of(100)


def test_an_adapter_that_is_gone_takes_its_prompts_with_it() -> None:
    cache, kept, gone = PrefixCache(1 << 20), adapter(), adapter()
    prompt = np.arange(50)
    read_prompt(cache, kept, prompt, 1)
    read_prompt(cache, gone, prompt, 2)
    read_prompt(cache, gone, np.arange(90), 2)
    assert (cache.count(None, prompt), cache.bytes) == (0, bytes_of(50 + 90))
    del gone
    gc.collect()
    assert read_prompt(cache, kept, prompt, 1) == 50
    assert cache.bytes == bytes_of(50)
