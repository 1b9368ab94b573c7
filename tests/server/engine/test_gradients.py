"""Gradients accumulate until a step: over all batches, in the layers that are trained, and whole or
not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tinkex_server.engine.interface import (
    AdamSettings,
    Example,
    InvalidRequest,
    LoraShape,
    SgdSettings,
)
from tinkex_server.engine.torch.engine import TorchEngine

LAYERS = {
    "train_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "train_mlp": {"gate_proj", "up_proj", "down_proj"},
    "train_unembed": {"lm_head"},
}
NONE = dict.fromkeys(LAYERS, False)


def example(text: bytes, **inputs: Any) -> Example:
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)
    return Example(tokens[:-1], {"target_tokens": tokens[1:], **inputs})


ONE, TWO = example(b"forty two is 42\n"), example(b"six is 6\n")


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(["tinkex/tiny"])


@pytest.fixture
def make(engine: TorchEngine) -> Iterator[Callable[..., str]]:
    """Makes models that have taken one step, so that all of their weights have gradients; they are
    unloaded at the end.
    """
    made: list[str] = []

    def make(model_id: str, rank: int = 4, **shape: Any) -> str:
        engine.create_model(model_id, "tinkex/tiny", LoraShape(rank, **shape), "sgd")
        made.append(model_id)
        gather(engine, model_id, [ONE])
        engine.optim_step(model_id, SgdSettings(0.01))
        return model_id

    yield make
    for model_id in made:
        engine.unload_model(model_id)


def gather(
    engine: TorchEngine, model_id: str, batch: Sequence[Example], *, backward: bool = True
) -> float:
    return engine.forward_backward(model_id, batch, "cross_entropy", {}, backward=backward).metrics[
        "loss:sum"
    ]


def step(engine: TorchEngine, model_id: str) -> float:
    """The norm of what was gathered."""
    return engine.optim_step(model_id, SgdSettings(0.01))["grad_norm"]


def test_batches_add_up_until_the_step(engine: TorchEngine, make: Callable[..., str]) -> None:
    together, apart = make("together", seed=1), make("apart", seed=1)
    whole = gather(engine, together, [ONE, TWO, TWO])
    parts = [gather(engine, apart, [datum]) for datum in (ONE, TWO, TWO)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    assert step(engine, apart) == pytest.approx(step(engine, together), rel=1e-4)
    assert gather(engine, apart, [ONE], backward=False) == pytest.approx(
        gather(engine, together, [ONE], backward=False), rel=1e-5
    )
    assert step(engine, apart) == 0, "a step clears what was gathered"


def test_a_forward_pass_leaves_no_gradient_and_no_trace(
    engine: TorchEngine, make: Callable[..., str]
) -> None:
    model_id, twin = make("forward", seed=1), make("twin", seed=1)
    assert gather(engine, model_id, [TWO], backward=False) == gather(
        engine, model_id, [TWO], backward=False
    )
    assert step(engine, model_id) == 0
    for name in (model_id, twin):
        gather(engine, name, [ONE])
    gather(engine, model_id, [TWO], backward=False)
    assert step(engine, model_id) == step(engine, twin)


@pytest.mark.parametrize(
    "bad",
    [
        example(b"abc", weights=np.ones(3, np.float32)),
        example(b"abc", weights=np.array([np.nan, 1], np.float32)),
    ],
)
def test_a_refused_batch_leaves_the_gradients_as_they_were(
    engine: TorchEngine, make: Callable[..., str], bad: Example
) -> None:
    model_id, twin = make("refused", seed=1), make("twin", seed=1)
    for name in (model_id, twin):
        gather(engine, name, [ONE])
    with pytest.raises(InvalidRequest, match=r"data\[1\]"):
        gather(engine, model_id, [TWO, bad])
    assert step(engine, model_id) == step(engine, twin)


@pytest.mark.parametrize(
    "trained",
    [["train_attn"], ["train_mlp"], ["train_unembed"], ["train_attn", "train_unembed"], [*LAYERS]],
)
def test_only_the_layers_asked_for_are_trained(
    engine: TorchEngine, make: Callable[..., str], tmp_path: Path, trained: Sequence[str]
) -> None:
    model_id = make("some", **{**NONE, **dict.fromkeys(trained, True)})
    engine.save_model(model_id, tmp_path / "saved", optimizer=False)
    weights = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights} == set().union(
        *(LAYERS[flag] for flag in trained)
    )
    assert all(weight.any() for weight in weights.values()), (
        "a step has changed the ones that begin as zeros"
    )


def test_a_model_that_would_train_nothing_is_refused(engine: TorchEngine) -> None:
    with pytest.raises(InvalidRequest, match="there are no layers to train"):
        engine.create_model("nothing", "tinkex/tiny", LoraShape(4, **NONE))


def test_adapters_of_many_ranks_on_one_base_train_as_each_would_alone(engine: TorchEngine) -> None:
    ranks = (1, 3, 8, 32)

    def train(order: Sequence[tuple[int, int]]) -> dict[int, list[float]]:
        """The losses by rank; `order` has a rank for each batch."""
        losses: dict[int, list[float]] = {rank: [] for rank in ranks}
        for rank in ranks:
            engine.create_model(f"rank {rank}", "tinkex/tiny", LoraShape(rank, seed=rank))
        for rank, _ in order:
            losses[rank].append(gather(engine, f"rank {rank}", [ONE, TWO]))
            if len(losses[rank]) % 2 == 0:
                engine.optim_step(f"rank {rank}", AdamSettings(3e-3))
        for rank in ranks:
            engine.unload_model(f"rank {rank}")
        return losses

    alone = train([(rank, turn) for rank in ranks for turn in range(5)])
    mixed = train([(rank, turn) for turn in range(5) for rank in ranks])
    assert mixed == alone
    assert all(losses[4] < losses[0] for losses in alone.values())
