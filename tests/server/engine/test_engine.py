"""The engine trains, samples what it learned, and keeps its models apart."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinkex_server.engine.interface import (
    AdamSettings,
    Example,
    InvalidRequest,
    LoraShape,
    SampleSpec,
)
from tinkex_server.engine.torch.engine import TorchEngine

TEXT = np.frombuffer(b"forty two is 42\n", dtype=np.uint8).astype(np.int64)
BATCH = [Example(TEXT[:-1], {"target_tokens": TEXT[1:]})] * 4


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(["tinkex/tiny"])


def test_a_model_learns_and_samples_what_it_learned(engine: TorchEngine, tmp_path: Path) -> None:
    engine.create_model("a", "tinkex/tiny", LoraShape(rank=16, seed=1))
    engine.create_model("b", "tinkex/tiny", LoraShape(rank=4, seed=1))
    before = engine.forward_backward("b", BATCH, "cross_entropy", {}, backward=False)
    for _ in range(30):
        after = engine.forward_backward("a", BATCH, "cross_entropy", {}, backward=True)
        engine.optim_step("a", AdamSettings(learning_rate=3e-3))
    assert after.metrics["loss:sum"] < 0.1 * before.metrics["loss:sum"]
    assert (
        engine.forward_backward("b", BATCH, "cross_entropy", {}, backward=False).metrics
        == before.metrics
    )

    engine.save_model("a", tmp_path / "saved", optimizer=False)
    engine.load_sampler("s", "tinkex/tiny", tmp_path / "saved")
    spec = SampleSpec(
        list(b"forty two"), 2, 20, temperature=0.0, stop_strings=["\n"], prompt_logprobs=True
    )
    result = engine.sample("s", spec).result()
    assert [(bytes(s.tokens), s.stop_reason) for s in result.sequences] == [
        (b" is 42\n", "stop")
    ] * 2
    assert result.prompt_logprobs is not None
    assert result.prompt_logprobs[0] is None
    trained = engine.forward_backward(
        "a", BATCH[:1], "cross_entropy", {}, backward=False
    ).loss_fn_outputs[0]["logprobs"]
    np.testing.assert_allclose(result.prompt_logprobs[1:], trained[:8], atol=1e-4)


def test_a_seed_fixes_the_sample(engine: TorchEngine) -> None:
    engine.load_sampler("base", "tinkex/tiny", None)
    spec = SampleSpec(list(b"The hacker"), 2, 12, seed=7)
    assert engine.sample("base", spec).result() == engine.sample("base", spec).result()


@pytest.mark.parametrize(
    ("inputs", "loss", "words"),
    [
        ({"target_tokens": TEXT[1:] + 300}, "cross_entropy", "token ids of this model are 0 to"),
        ({"target_tokens": TEXT}, "cross_entropy", "has the shape"),
        (
            {"target_tokens": np.zeros((len(TEXT) - 1, 0), np.int64)},
            "cross_entropy",
            r"has the shape \[15, 0\]; expected \[15\] or \[15, K\]",
        ),
        (
            {"target_tokens": np.full((len(TEXT) - 1, 2), 300)},
            "cross_entropy",
            r"target_tokens\[0\] is 300; token ids of this model are 0 to",
        ),
        ({}, "cross_entropy", "lacks 'target_tokens'"),
        ({"target_tokens": TEXT[1:]}, "nonsense", "unknown loss_fn"),
    ],
)
def test_impossible_requests_are_refused_with_a_reason(
    engine: TorchEngine, inputs: dict[str, np.ndarray], loss: str, words: str
) -> None:
    engine.create_model("c", "tinkex/tiny", LoraShape(rank=2))
    with pytest.raises(InvalidRequest, match=words):
        engine.forward_backward("c", [Example(TEXT[:-1], inputs)], loss, {}, backward=True)
    engine.unload_model("c")


def train(engine: TorchEngine, model_id: str, steps: int) -> list[float]:
    """The losses of so many steps."""
    losses: list[float] = []
    for _ in range(steps):
        losses.append(
            engine.forward_backward(model_id, BATCH, "cross_entropy", {}, backward=True).metrics[
                "loss:sum"
            ]
        )
        engine.optim_step(model_id, AdamSettings(learning_rate=3e-3, weight_decay=0.01))
    return losses


@pytest.fixture
def saved(
    engine: TorchEngine, tmp_path: Path, make: Callable[..., str]
) -> tuple[Path, list[float]]:
    """A training state after three steps, and the losses of the three that followed in the model
    itself.
    """
    model_id = make("source", seed=3)
    train(engine, model_id, 3)
    engine.save_model(model_id, tmp_path / "saved", optimizer=True)
    return tmp_path / "saved", train(engine, model_id, 3)


@pytest.fixture
def make(engine: TorchEngine) -> Iterator[Callable[..., str]]:
    """Makes models, which are unloaded at the end."""
    made: list[str] = []

    def make(model_id: str, rank: int = 4, **shape: Any) -> str:
        engine.create_model(model_id, "tinkex/tiny", LoraShape(rank=rank, **shape))
        made.append(model_id)
        return model_id

    yield make
    for model_id in made:
        engine.unload_model(model_id)


def test_training_resumes_bit_for_bit_from_a_loaded_state(
    engine: TorchEngine, saved: tuple[Path, list[float]], make: Callable[..., str]
) -> None:
    folder, followed = saved
    engine.load_model(make("new", seed=8), folder, optimizer=True)
    assert train(engine, "new", 3) == followed


def test_loaded_into_a_model_that_trained_it_goes_back(
    engine: TorchEngine, saved: tuple[Path, list[float]], make: Callable[..., str]
) -> None:
    folder, followed = saved
    train(engine, make("used", seed=8), 2)
    # its gradients are dropped by the load
    engine.forward_backward("used", BATCH, "cross_entropy", {}, backward=True)
    engine.load_model("used", folder, optimizer=True)
    assert train(engine, "used", 3) == followed


def test_a_load_without_the_optimizer_resets_adamw(
    engine: TorchEngine, saved: tuple[Path, list[float]], make: Callable[..., str], tmp_path: Path
) -> None:
    folder, followed = saved
    engine.load_model(make("first"), folder, optimizer=False)
    engine.save_model("first", tmp_path / "weights", optimizer=True)
    first = train(engine, "first", 3)
    assert first[0] == followed[0], "the weights are the same"
    assert first != followed
    train(engine, make("second"), 2)
    engine.load_model("second", folder, optimizer=False)
    assert train(engine, "second", 3) == first, "nothing is left of the second's own optimizer"
    engine.load_model(make("third"), tmp_path / "weights", optimizer=True)
    assert train(engine, "third", 3) == first, (
        "a state saved before any step is that of a new optimizer"
    )


def test_gradients_that_were_not_applied_are_not_saved(
    engine: TorchEngine, make: Callable[..., str], tmp_path: Path
) -> None:
    train(engine, make("waiting", seed=3), 1)
    engine.forward_backward("waiting", BATCH, "cross_entropy", {}, backward=True)
    engine.save_model("waiting", tmp_path / "state", optimizer=True)
    engine.load_model(make("loaded"), tmp_path / "state", optimizer=True)
    assert engine.optim_step("loaded", AdamSettings())["grad_norm"] == 0
    assert engine.optim_step("waiting", AdamSettings())["grad_norm"] > 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"rank": 8}, r"the shape \[4, .* in the checkpoint, and \[8, .* in the model"),
        ({"train_mlp": False}, "include .*_proj.*, which this model does not train"),
    ],
)
def test_weights_of_another_shape_are_refused_and_change_nothing(
    engine: TorchEngine,
    saved: tuple[Path, list[float]],
    make: Callable[..., str],
    shape: dict[str, Any],
    words: str,
) -> None:
    make("other", seed=5, **shape)
    make("twin", seed=5, **shape)
    train(engine, "other", 1)
    train(engine, "twin", 1)
    with pytest.raises(InvalidRequest, match=words):
        engine.load_model("other", saved[0], optimizer=True)
    assert train(engine, "other", 2) == train(engine, "twin", 2)


def test_sampler_weights_contain_no_optimizer_state(
    engine: TorchEngine, make: Callable[..., str], tmp_path: Path
) -> None:
    train(engine, make("a1"), 1)
    engine.save_model("a1", tmp_path / "sampler", optimizer=False)
    assert sorted(path.name for path in (tmp_path / "sampler").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    with pytest.raises(InvalidRequest, match="has no optimizer state"):
        engine.load_model("a1", tmp_path / "sampler", optimizer=True)
    with pytest.raises(InvalidRequest, match="deleted"):
        engine.load_model("a1", tmp_path / "none", optimizer=False)
    with pytest.raises(InvalidRequest, match="another engine saved"):
        engine.load_sampler("s", "tinkex/tiny", tmp_path / "none")


def test_a_training_state_can_be_sampled(
    engine: TorchEngine, saved: tuple[Path, list[float]], make: Callable[..., str]
) -> None:
    engine.load_model(make("source2"), saved[0], optimizer=False)
    engine.load_sampler("of weights", "tinkex/tiny", saved[0])
    spec = SampleSpec([int(token) for token in TEXT], 1, 1, temperature=0.0, prompt_logprobs=True)
    sampled = engine.sample("of weights", spec).result().prompt_logprobs
    assert sampled is not None
    trained = engine.forward_backward(
        "source2", BATCH[:1], "cross_entropy", {}, backward=False
    ).loss_fn_outputs[0]["logprobs"]
    np.testing.assert_allclose(sampled[1:], trained, atol=1e-4)


def test_several_targets_a_position_are_as_many_batches_of_one(
    engine: TorchEngine, make: Callable[..., str]
) -> None:
    """Soft targets: the gradients of the columns add up, whatever else is in the batch."""
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 256, (len(TEXT) - 1, 3))
    weights = rng.uniform(0, 1, targets.shape).astype(np.float32)
    together = Example(TEXT[:-1], {"target_tokens": targets, "weights": weights})
    apart = [
        Example(TEXT[:-1], {"target_tokens": targets[:, k], "weights": weights[:, k]})
        for k in range(3)
    ]
    for model_id in (make("whole", seed=2), make("columns", seed=2)):
        train(engine, model_id, 1)
    result = engine.forward_backward(
        "whole", [*BATCH[:1], together], "cross_entropy", {}, backward=True
    )
    columns = engine.forward_backward(
        "columns", [*BATCH[:1], *apart], "cross_entropy", {}, backward=True
    )
    assert result.metrics["loss:sum"] == pytest.approx(columns.metrics["loss:sum"], rel=1e-5)
    logprobs = [output["logprobs"] for output in columns.loss_fn_outputs[1:]]
    np.testing.assert_allclose(
        result.loss_fn_outputs[1]["logprobs"], np.stack(logprobs, axis=1), atol=1e-5
    )
    norms = [
        engine.optim_step(model_id, AdamSettings())["grad_norm"]
        for model_id in ("whole", "columns")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
