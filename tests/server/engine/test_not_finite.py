"""NaN and infinity never enter a model: their cause is refused by name, and training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.custom_loss_graphs import LOGPROBS, node, output, ref
from tinkex import (
    AdamParams,
    AsyncServiceClient,
    Datum,
    ModelInput,
    RequestFailedError,
    ServiceClient,
)
from tinkex.local import Server
from tinkex_server.engine.interface import (
    AdamSettings,
    CustomLoss,
    DimuonSettings,
    Example,
    InvalidRequest,
    LoraShape,
    OptimizerSettings,
    SgdSettings,
)
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.losses import LOSSES, find_loss

TEXT = np.frombuffer(b"forty two is 42\n", dtype=np.uint8).astype(np.int64)
TOKENS, TARGETS = TEXT[:-1], TEXT[1:]
GOOD = Example(TOKENS, {"target_tokens": TARGETS})
ONES = np.ones(len(TOKENS), np.float32)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(["tinkex/tiny"])


def model(engine: TorchEngine, settings: OptimizerSettings) -> str:
    """One that has taken a step, so that its optimizer has a state."""
    engine.create_model("m", "tinkex/tiny", LoraShape(rank=4, seed=1), settings.kind)
    engine.forward_backward("m", [GOOD], "cross_entropy", {}, backward=True)
    engine.optim_step("m", settings)
    return "m"


def saved(engine: TorchEngine, model_id: str, folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer state."""
    engine.save_model(model_id, folder, optimizer=True)
    return {**load_file(folder / WEIGHTS), **load_file(folder / "optimizer.safetensors")}


def policy(**changes: Any) -> Example:
    inputs = {
        "target_tokens": TARGETS,
        "logprobs": -ONES,
        "advantages": ONES,
        "sequence_ratio_mask": ONES,
    }
    return Example(TOKENS, {**inputs, **changes})


def at_first(value: float, other: float = 1.0) -> Any:
    return np.where(np.arange(len(TOKENS)) == 0, value, other).astype(np.float32)


FAR = at_first(-9999.0, -1.0)
"""Old logprobs of which the first gives a ratio that no float holds."""


@pytest.mark.parametrize("zero", ["advantages", "weights"])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_where_a_factor_is_0_a_ratio_beyond_all_floats_is_neither_loss_nor_gradient(
    name: str, zero: str
) -> None:
    changes = {zero: at_first(0.0), "sequence_ratio_mask": at_first(0.0)}
    slopes: list[Any] = []
    values: list[Any] = []
    for old in (FAR, -ONES):
        logprobs = torch.full((len(TOKENS),), -1.5, requires_grad=True)
        losses, _ = find_loss(name, {"beta": 0.0} if name == "dro" else {})(
            logprobs, 0, policy(logprobs=old, **changes)
        )
        losses.sum().backward()
        assert logprobs.grad is not None
        slopes.append(logprobs.grad.numpy())
        values.append(losses.detach().numpy())
    if zero == "weights" or name not in ("cross_entropy", "dro"):
        assert (values[0][0], slopes[0][0]) == (0, 0)
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(slopes[0], slopes[1])


@pytest.mark.parametrize("name", ["ppo", "gspo"])
def test_a_ratio_beyond_all_floats_that_is_clipped_is_a_constant(name: str) -> None:
    logprobs = torch.full((len(TOKENS),), -1.5, requires_grad=True)
    losses, _ = find_loss(name, {})(logprobs, 0, policy(logprobs=-9999 * ONES))
    losses.sum().backward()
    assert logprobs.grad is not None
    np.testing.assert_array_equal(losses.detach().numpy(), np.float32(-1.2) * ONES)
    assert not logprobs.grad.any()


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "gspo"])
def test_a_loss_that_is_not_finite_fails_naming_its_datum_and_adds_nothing(
    engine: TorchEngine, tmp_path: Path, name: str
) -> None:
    model_id = model(engine, AdamSettings())
    before = saved(engine, model_id, tmp_path / "before")
    engine.forward_backward(model_id, [GOOD], "cross_entropy", {}, backward=True)
    bad = policy(logprobs=FAR, advantages=-ONES)
    with pytest.raises(InvalidRequest, match=r"the loss of data\[1\] is (inf|nan)"):
        engine.forward_backward(model_id, [policy(), bad, policy()], name, {}, backward=True)
    kept = saved(engine, model_id, tmp_path / "kept")
    assert all(torch.equal(kept[key], before[key]) for key in before)

    engine.optim_step(model_id, AdamSettings())
    after = saved(engine, model_id, tmp_path / "after")
    twin = model(engine, AdamSettings())  # what it is without the batch that failed
    engine.forward_backward(twin, [GOOD], "cross_entropy", {}, backward=True)
    engine.optim_step(twin, AdamSettings())
    wanted = saved(engine, twin, tmp_path / "wanted")
    assert all(torch.equal(after[key], wanted[key]) for key in wanted)


def test_losses_whose_sum_no_float32_holds_are_summed_all_the_same(engine: TorchEngine) -> None:
    model_id = model(engine, AdamSettings())
    large = Example(
        TOKENS, {"target_tokens": TARGETS, "weights": np.full(len(TOKENS), 3e36, np.float32)}
    )
    one = engine.forward_backward(model_id, [large], "cross_entropy", {}, backward=False).metrics[
        "loss:sum"
    ]
    several = [large] * (1 + int(3.5e38 / one))
    total = engine.forward_backward(model_id, several, "cross_entropy", {}, backward=False).metrics[
        "loss:sum"
    ]
    assert total > 3.5e38
    assert total == pytest.approx(one * len(several))


def test_a_forward_whose_loss_is_not_finite_fails_naming_its_datum(engine: TorchEngine) -> None:
    bad = policy(logprobs=FAR, advantages=-ONES)
    with pytest.raises(
        InvalidRequest, match=r"^the loss of data\[1\] is (inf|nan)\. Check its logprobs"
    ):
        engine.forward_backward(
            model(engine, AdamSettings()), [policy(), bad], "ppo", {}, backward=False
        )


def test_a_finite_loss_whose_gradient_is_not_fails_naming_its_datum(engine: TorchEngine) -> None:
    model_id = model(engine, AdamSettings())
    nodes = [
        node("call_method", "zero", "sub", ref("logprobs"), ref("logprobs")),
        node("call_method", "root", "sqrt", ref("zero")),  # whose slope at 0 is infinite
        node("call_method", "total", "sum", ref("root")),
    ]
    loss = CustomLoss([("logprobs", 1)], [LOGPROBS, *nodes, output("total")])
    with pytest.raises(InvalidRequest, match=r"gradient of the loss of data\[0\]"):
        engine.forward_backward(model_id, [GOOD], loss, {}, backward=True)
    assert engine.optim_step(model_id, AdamSettings())["grad_norm"] == 0


def test_gradients_whose_sum_no_float_holds_are_dropped_by_the_step_which_fails(
    engine: TorchEngine, tmp_path: Path
) -> None:
    model_id = model(engine, AdamSettings())
    before = saved(engine, model_id, tmp_path / "before")
    huge = Example(TOKENS, {"target_tokens": TARGETS, "weights": 1e25 * ONES})
    for _ in range(2):
        engine.forward_backward(model_id, [huge], "cross_entropy", {}, backward=True)
    with pytest.raises(InvalidRequest, match="norm of the gradients is inf"):
        engine.optim_step(model_id, AdamSettings())
    kept = saved(engine, model_id, tmp_path / "kept")
    assert all(torch.equal(kept[key], before[key]) for key in before)
    assert engine.optim_step(model_id, AdamSettings())["grad_norm"] == 0


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (AdamSettings(), AdamSettings(learning_rate=1e39)),
        (AdamSettings(), AdamSettings(learning_rate=1e20, weight_decay=1e38)),
        (SgdSettings(0.1, momentum=0.9), SgdSettings(3e38, momentum=0.9, weight_decay=3e38)),
        (DimuonSettings(0.1), DimuonSettings(1e39)),
    ],
)
def test_a_step_that_would_make_weights_infinite_is_not_applied(
    engine: TorchEngine, tmp_path: Path, good: OptimizerSettings, bad: OptimizerSettings
) -> None:
    model_id = model(engine, good)
    before = saved(engine, model_id, tmp_path / "before")
    engine.forward_backward(model_id, [GOOD], "cross_entropy", {}, backward=True)
    with pytest.raises((InvalidRequest, RuntimeError), match=r"infinite or NaN|overflow"):
        engine.optim_step(model_id, bad)
    kept = saved(engine, model_id, tmp_path / "kept")
    assert kept.keys() == before.keys()
    assert all(torch.equal(kept[key], before[key]) for key in before)

    engine.forward_backward(model_id, [GOOD], "cross_entropy", {}, backward=True)
    assert engine.optim_step(model_id, good)["grad_norm"] > 0
    assert all(
        value.isfinite().all() for value in saved(engine, model_id, tmp_path / "after").values()
    )


def test_a_first_step_that_is_not_applied_leaves_no_optimizer_state(
    engine: TorchEngine, tmp_path: Path
) -> None:
    engine.create_model("n", "tinkex/tiny", LoraShape(rank=4, seed=1))
    before = saved(engine, "n", tmp_path / "before")
    engine.forward_backward("n", [GOOD], "cross_entropy", {}, backward=True)
    with pytest.raises(InvalidRequest, match="not applied"):
        engine.optim_step("n", AdamSettings(learning_rate=3e38, weight_decay=3e38))
    assert saved(engine, "n", tmp_path / "kept").keys() == before.keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_loaded_nor_sampled(
    engine: TorchEngine, tmp_path: Path, value: float
) -> None:
    model_id = model(engine, AdamSettings())
    engine.save_model(model_id, tmp_path / "saved", optimizer=True)
    before = load_file(tmp_path / "saved" / WEIGHTS)
    broken = {name: tensor.clone() for name, tensor in before.items()}
    name = sorted(broken)[0]
    broken[name][0, 0] = value
    save_file(broken, tmp_path / "saved" / WEIGHTS)
    for load in (
        lambda: engine.load_model(model_id, tmp_path / "saved", optimizer=True),
        lambda: engine.load_sampler("s", "tinkex/tiny", tmp_path / "saved"),
    ):
        with pytest.raises(InvalidRequest, match=WEIGHTS):
            load()
    engine.save_model(model_id, tmp_path / "again", optimizer=False)
    again = load_file(tmp_path / "again" / WEIGHTS)
    assert all(torch.equal(again[name], before[name]) for name in before)


BAD = Datum(
    model_input=ModelInput.from_ints([5, 6, 7]),
    loss_fn_inputs={
        "target_tokens": [6, 7, 8],
        "logprobs": [-9999.0, -1.0, -1.0],
        "advantages": [1.0, 1.0, 1.0],
    },
)
FINE = Datum(
    model_input=ModelInput.from_ints([5, 6, 7]), loss_fn_inputs={"target_tokens": [6, 7, 8]}
)


def test_a_blocking_client_trains_on_after_a_loss_that_was_not_finite(torch_server: Server) -> None:
    with ServiceClient(torch_server.base_url) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=4)
        with pytest.raises(RequestFailedError, match=r"the loss of data\[1\] is -inf"):
            training.forward_backward([BAD_AT_0, BAD], "importance_sampling").result()
        with pytest.raises(RequestFailedError, match=r"the loss of data\[1\] is -inf\. Check"):
            training.forward([BAD_AT_0, BAD], "importance_sampling").result()
        training.forward_backward([FINE], "cross_entropy").result()
        training.optim_step(AdamParams(learning_rate=1e-4)).result()
        loss = training.forward([FINE], "cross_entropy").result().metrics["loss:sum"]
        assert np.isfinite(loss)
        assert training.save_state("fine").result().path.endswith("fine")


@pytest.mark.anyio
async def test_an_asyncio_client_trains_on_after_a_loss_that_was_not_finite(
    torch_server: Server,
) -> None:
    async with AsyncServiceClient(torch_server.base_url) as service:
        training = await service.create_lora_training_client("tinkex/tiny", rank=4)
        with pytest.raises(RequestFailedError, match=r"the loss of data\[0\] is -inf"):
            await training.forward_backward([BAD], "importance_sampling")
        with pytest.raises(RequestFailedError, match=r"the loss of data\[0\] is -inf\. Check"):
            await training.forward([BAD], "importance_sampling")
        await training.forward_backward([BAD_AT_0], "importance_sampling")
        await training.optim_step(AdamParams(learning_rate=1e-4))
        assert np.isfinite((await training.forward([FINE], "cross_entropy")).metrics["loss:sum"])


BAD_AT_0 = Datum(
    model_input=ModelInput.from_ints([5, 6, 7]),
    loss_fn_inputs={
        "target_tokens": [6, 7, 8],
        "logprobs": [-9999.0, -1.0, -1.0],
        "advantages": [0.0, 1.0, 1.0],
    },
)
"""The ratio that no float holds has an advantage of 0, so its loss is 0."""
