"""The fake engine is deterministic, and its results are consistent with each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.batches import text_datum
from tests.support.facades import FACADES
from tinkex import AdamParams
from tinkex.local import serve
from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import (
    AdamSettings,
    Example,
    InvalidRequest,
    LoraShape,
    SampleSpec,
)

TOKENS = [5, 6, 7, 8]
PROMPT = SampleSpec(TOKENS, max_tokens=1, prompt_logprobs=True)


def example(*tokens: int) -> Example:
    return Example(
        np.array(tokens[:-1]),
        {"target_tokens": np.array(tokens[1:]), "weights": np.ones(len(tokens) - 1)},
    )


def trained(engine: FakeEngine, model_id: str, *batches: tuple[int, ...]) -> None:
    engine.create_model(model_id, "m", LoraShape(4))
    for tokens in batches:
        engine.forward_backward(model_id, [example(*tokens)], "cross_entropy", {}, backward=True)
        engine.optim_step(model_id, AdamSettings())


def loss(engine: FakeEngine, model_id: str) -> float:
    return engine.forward_backward(
        model_id, [example(*TOKENS)], "cross_entropy", {}, backward=False
    ).metrics["loss:sum"]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(["m"])


def test_two_engines_give_the_same_results(engine: FakeEngine, tmp_path: Path) -> None:
    other = FakeEngine(["m"])
    for one in (engine, other):
        trained(one, "x", (1, 2, 3), (4, 5))
        folder = tmp_path / str(id(one))
        one.save_model("x", folder, optimizer=True)
        one.load_sampler("s", "m", folder)
    spec = SampleSpec(
        TOKENS, num_samples=2, max_tokens=8, seed=3, topk_sample_logprobs=2, topk_prompt_logprobs=2
    )
    assert engine.sample("s", spec).result() == other.sample("s", spec).result()
    assert loss(engine, "x") == loss(other, "x")


def test_losses_fall_with_steps_and_only_with_those_that_have_a_gradient(
    engine: FakeEngine,
) -> None:
    trained(engine, "x")
    losses = [loss(engine, "x")]
    engine.optim_step("x", AdamSettings())
    assert loss(engine, "x") == losses[0]
    for _ in range(3):
        engine.forward_backward("x", [example(1, 2)], "cross_entropy", {}, backward=True)
        engine.optim_step("x", AdamSettings())
        losses.append(loss(engine, "x"))
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


def test_a_saved_model_is_loaded_sampled_and_trained_on_as_it_was(
    engine: FakeEngine, tmp_path: Path
) -> None:
    trained(engine, "x", (1, 2, 3))
    engine.save_model("x", tmp_path / "x", optimizer=True)
    engine.create_model("y", "m", LoraShape(4))
    engine.load_model("y", tmp_path / "x", optimizer=True)
    assert loss(engine, "y") == loss(engine, "x")
    engine.load_sampler("s", "m", tmp_path / "x")
    [sampled] = engine.sample("s", SampleSpec(TOKENS, max_tokens=6, seed=1)).result().sequences
    whole = [*TOKENS, *sampled.tokens]
    scored = (
        engine.sample("s", SampleSpec(whole, max_tokens=1, prompt_logprobs=True))
        .result()
        .prompt_logprobs
    )
    assert scored is not None
    assert scored[-6:] == list(sampled.logprobs)
    data = engine.forward_backward("y", [example(*whole)], "cross_entropy", {}, backward=False)
    assert data.loss_fn_outputs[0]["logprobs"].tolist() == scored[1:]


def test_several_targets_a_position_each_have_their_logprob(engine: FakeEngine) -> None:
    trained(engine, "x")
    alone = engine.forward_backward("x", [example(5, 6, 7)], "cross_entropy", {}, backward=False)
    targets = np.array([[6, 9], [9, 7]])
    several = Example(
        np.array([5, 6]), {"target_tokens": targets, "weights": np.array([[1.0, 0.0], [0.0, 1.0]])}
    )
    both = engine.forward_backward("x", [several], "cross_entropy", {}, backward=False)
    assert both.loss_fn_outputs[0]["logprobs"].shape == (2, 2)
    assert (
        both.loss_fn_outputs[0]["logprobs"].diagonal().tolist()
        == alone.loss_fn_outputs[0]["logprobs"].tolist()
    )
    assert both.metrics["loss:sum"] == pytest.approx(alone.metrics["loss:sum"])


def test_samples_differ_by_seed_prompt_number_and_weights(
    engine: FakeEngine, tmp_path: Path
) -> None:
    engine.load_sampler("bare", "m", None)
    trained(engine, "x", (1, 2, 3))
    engine.save_model("x", tmp_path / "x", optimizer=False)
    engine.load_sampler("trained", "m", tmp_path / "x")
    asked = [
        ("bare", 1, TOKENS),
        ("bare", 2, TOKENS),
        ("bare", 1, TOKENS[1:]),
        ("trained", 1, TOKENS),
    ]
    drawn = [
        tuple(sequence.tokens)
        for sampler, seed, prompt in asked
        for sequence in engine.sample(
            sampler, SampleSpec(prompt, num_samples=2, max_tokens=8, seed=seed)
        )
        .result()
        .sequences
    ]
    assert len(set(drawn)) == 8
    greedy = (
        engine.sample("bare", SampleSpec(TOKENS, num_samples=2, max_tokens=8, temperature=0))
        .result()
        .sequences
    )
    assert greedy[0] == greedy[1]


def test_a_stop_token_ends_a_sample(engine: FakeEngine) -> None:
    engine.load_sampler("s", "m", None)
    [whole] = engine.sample("s", SampleSpec(TOKENS, max_tokens=8)).result().sequences
    [cut] = (
        engine.sample("s", SampleSpec(TOKENS, max_tokens=8, stop_tokens=[whole.tokens[3]]))
        .result()
        .sequences
    )
    assert (list(cut.tokens), cut.stop_reason, whole.stop_reason) == (
        whole.tokens[:4],
        "stop",
        "length",
    )


def test_wrong_requests_are_refused(engine: FakeEngine, tmp_path: Path) -> None:
    trained(engine, "x")
    with pytest.raises(InvalidRequest, match="unknown base model 'other'; this server has m"):
        engine.create_model("y", "other", LoraShape(4))
    with pytest.raises(InvalidRequest, match="unknown model 'y'"):
        engine.optim_step("y", AdamSettings())
    with pytest.raises(InvalidRequest, match="unknown sampler 's'"):
        engine.sample("s", PROMPT).result()
    with pytest.raises(InvalidRequest, match=r"data\[0\].loss_fn_inputs lacks 'target_tokens'"):
        engine.forward_backward(
            "x", [Example(np.arange(3), {})], "cross_entropy", {}, backward=True
        )
    crooked = Example(np.arange(3), {"target_tokens": np.arange(3), "weights": np.ones(2)})
    with pytest.raises(
        InvalidRequest, match=r"data\[1\].loss_fn_inputs\['weights'\] has the shape \[2\]"
    ):
        engine.forward_backward("x", [example(1, 2), crooked], "cross_entropy", {}, backward=True)
    engine.save_model("x", tmp_path / "x", optimizer=False)
    with pytest.raises(InvalidRequest, match="has no optimizer state"):
        engine.load_model("x", tmp_path / "x", optimizer=True)
    with pytest.raises(InvalidRequest, match="deleted"):
        engine.load_sampler("s", "m", tmp_path / "gone")


@pytest.mark.parametrize("facade", FACADES)
def test_a_training_loop_runs_on_it(facade: str) -> None:
    data = [text_datum("one is ", "1\n")]
    with (
        serve(engine="fake") as server,
        FACADES[facade](base_url=server.base_url, api_key="tml-test") as service,
    ):
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        losses = []
        for _ in range(3):
            result = trainer.forward_backward(data, "cross_entropy")
            trainer.optim_step(AdamParams()).result()
            losses.append(result.result().metrics["loss:sum"])
        sampler = trainer.save_weights_and_get_sampling_client()
        [sequence] = sampler.sample(TOKENS, 1, {"max_tokens": 5}).result().sequences
        assert trainer.get_tokenizer().decode(sequence.tokens)
    assert losses[0] > losses[1] > losses[2]


def test_the_fake_engine_does_not_import_torch() -> None:
    code = (
        "import sys, tinkex.local; tinkex.local.serve(engine='fake').close(); print([m for m in "
        "('torch', 'peft') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
