"""The engine's own LoRA layers do what peft's would, and each row of a batch gets its own
adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from tinkex_server.engine.interface import AdamSettings, Example, InvalidRequest, LoraShape
from tinkex_server.engine.torch.adapter import Adapter, LayerWeights
from tinkex_server.engine.torch.adapter_files import read_adapter, save_adapter
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.mixed_adapters import AdapterPlanner

TINY = Path(__file__).parents[3] / "tinkex" / "tiny"
TEXT = np.frombuffer(b"forty two is 42\n", dtype=np.uint8).astype(np.int64)
BATCH = [Example(TEXT[:-1], {"target_tokens": TEXT[1:]})] * 2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


@pytest.fixture(scope="module")
def base() -> LoadedBaseModel:
    return LoadedBaseModel.load("tinkex/tiny", "cpu")


def plain_model() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, for what peft calls
def test_saved_weights_give_the_same_logprobs_with_peft(tmp_path: Path) -> None:
    engine = TorchEngine(["tinkex/tiny"], "cpu")
    engine.create_model("a", "tinkex/tiny", LoraShape(rank=8, seed=1))
    for _ in range(3):
        engine.forward_backward("a", BATCH, "cross_entropy", {}, backward=True)
        engine.optim_step("a", AdamSettings(learning_rate=3e-3))
    engine.save_model("a", tmp_path / "saved", optimizer=False)
    ours = engine.forward_backward("a", BATCH, "cross_entropy", {}, backward=False).loss_fn_outputs[
        0
    ]["logprobs"]

    model = PeftModel.from_pretrained(plain_model(), str(tmp_path / "saved"))
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(TEXT[None, :-1].copy())).logits[0]
        theirs = logits.log_softmax(-1)[range(len(TEXT) - 1), TEXT[1:]]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert abs(ours.sum()) < 0.9 * abs(engine_without_training().sum())


def engine_without_training() -> np.ndarray:
    engine = TorchEngine(["tinkex/tiny"], "cpu")
    engine.create_model("b", "tinkex/tiny", LoraShape(rank=8))
    return engine.forward_backward("b", BATCH, "cross_entropy", {}, backward=False).loss_fn_outputs[
        0
    ]["logprobs"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_seed_gives_the_weights_that_peft_gives(base: LoadedBaseModel, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        theirs = PeftModel(
            plain_model(),
            LoraConfig(r=4, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"),
        )
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=False)
    ours, read = base.new_adapter(LoraShape(rank=4, seed=11)), read_adapter(tmp_path)
    assert (ours.rank, ours.alpha) == (read.rank, read.alpha)
    weights = read.named_weights()
    assert weights.keys() == ours.named_weights().keys()
    assert all(torch.equal(weights[name], own) for name, own in ours.named_weights().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "shape", [{}, {"train_attn": False}, {"train_mlp": False, "train_unembed": False}]
)
def test_gradients_are_those_of_peft(
    base: LoadedBaseModel, tmp_path: Path, shape: dict[str, bool]
) -> None:
    adapter = random_adapter(base, 6, **shape)
    save_adapter(adapter, tmp_path / "saved", base.adapted_model)
    theirs = PeftModel.from_pretrained(plain_model(), str(tmp_path / "saved"), is_trainable=True)
    tokens = torch.from_numpy(TEXT.copy()).reshape(2, -1)
    theirs(input_ids=tokens, labels=tokens).loss.backward()
    wanted = {
        name.replace(".default", ""): weight.grad
        for name, weight in theirs.named_parameters()
        if weight.requires_grad
    }
    ours = {name: weight.requires_grad_() for name, weight in adapter.named_weights().items()}
    with base.acquire(adapter) as network:
        network(input_ids=tokens, labels=tokens).loss.backward()
    assert ours.keys() == wanted.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight.grad, wanted[name], atol=1e-5, rtol=1e-4)


def random_adapter(base: LoadedBaseModel, rank: int, **shape: Any) -> Adapter:
    """One that changes much, unlike a new one."""
    new = base.new_adapter(LoraShape(rank=rank, **shape))
    return Adapter(
        rank,
        32,
        {
            name: LayerWeights(a.detach(), torch.randn_like(b) * 0.05)
            for name, (a, b) in new.layers.items()
        },
    )


BATCHES: Mapping[str, Sequence[tuple[int, int | None]]] = {
    "two, and rows without": [(2, 0), (1, None), (16, 1), (2, 0)],
    "ranks far apart": [(rank, rank) for rank in (1, 2, 5, 8, 40, 64) for _ in range(2)],
    "as many rows each": [(rank, rank) for rank in (4, 8, 16) * 3],
    "one with most rows": [(4, 0)] * 9 + [(8, 1), (3, 2), (4, 3)],
    "one, and a row without": [(4, 0), (1, None)],
}
"""Each row's adapter: its rank, and a number that tells it from others; None: no adapter."""


@pytest.mark.parametrize("batch", BATCHES)
@torch.inference_mode()
def test_each_row_of_a_batch_gets_its_own_adapter_or_none(
    base: LoadedBaseModel, batch: str
) -> None:
    """Also where an adapter has not all layers."""
    made = {
        key: random_adapter(base, key[0], train_mlp=index % 3 != 0)
        for index, key in enumerate(dict.fromkeys(BATCHES[batch]))
        if key[1] is not None
    }
    rows = [made.get(key) for key in BATCHES[batch]]
    assert_each_is_as_alone(base, AdapterPlanner(base.device), rows)


@torch.inference_mode()
def test_a_plan_holds_when_rows_come_and_go(base: LoadedBaseModel) -> None:
    """The weights that an earlier batch has stacked are used again."""
    planner = AdapterPlanner(base.device)
    a, b, c, d = (random_adapter(base, rank) for rank in (4, 8, 4, 6))
    # the last: one of the stacked adapters has most rows, and is planned alone
    for rows in ([a, b, c], [c, a, a], [b, None, a], [d, b], [a, b, c, d, d], [a] * 9 + [b, c]):
        assert_each_is_as_alone(base, planner, rows)


@torch.inference_mode()
def test_adapters_too_large_to_copy_are_applied_where_they_are(
    base: LoadedBaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [random_adapter(base, rank) for rank in (4, 8, 4)]
    monkeypatch.setattr("tinkex_server.engine.torch.mixed_adapters._STACK_BYTES", 1 << 10)
    planner = AdapterPlanner(base.device)
    assert_each_is_as_alone(base, planner, rows)
    assert planner.kept_bytes == 0


@torch.inference_mode()
def test_stacks_are_kept_up_to_a_limit(
    base: LoadedBaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [[random_adapter(base, 4), random_adapter(base, 4)] for _ in range(4)]
    planner = AdapterPlanner(base.device)
    planner.plan(pairs[0])
    most = 2 * planner.kept_bytes
    monkeypatch.setattr("tinkex_server.engine.torch.mixed_adapters._KEPT_BYTES", most)
    for pair in pairs:
        planner.plan(pair)
        assert 0 < planner.kept_bytes <= most
    assert_each_is_as_alone(base, planner, pairs[0])


@torch.inference_mode()
def test_weights_that_are_not_finite_reach_no_other_row(base: LoadedBaseModel) -> None:
    rows = [random_adapter(base, 4), random_adapter(base, 4), None]
    broken = random_adapter(base, 8)
    for weight in broken.named_weights().values():
        weight.fill_(torch.nan)
    plan = AdapterPlanner(base.device).plan([broken, *rows, broken, broken])
    with base.acquire(plan) as network:
        mixed = network(input_ids=tokens_of(6)).logits
    assert mixed[[0, 4, 5]].isnan().all()
    for row, adapter in enumerate(rows, 1):
        torch.testing.assert_close(mixed[row], alone(base, adapter), atol=1e-4, rtol=1e-4)


def tokens_of(rows: int) -> torch.Tensor:
    return torch.from_numpy(TEXT.copy()).repeat(rows, 1)


def alone(base: LoadedBaseModel, adapter: Adapter | None) -> torch.Tensor:
    """The logits of one row."""
    with base.acquire(adapter) as network:
        return network(input_ids=tokens_of(1)).logits[0]


def assert_each_is_as_alone(
    base: LoadedBaseModel, planner: AdapterPlanner, rows: Sequence[Adapter | None]
) -> None:
    """Asserts that each row of a batch has the logits of its own adapter, which differ."""
    with base.acquire(planner.plan(rows)) as network:
        mixed = network(input_ids=tokens_of(len(rows))).logits
    for row, adapter in enumerate(rows):
        torch.testing.assert_close(mixed[row], alone(base, adapter), atol=1e-4, rtol=1e-4)
    for row, adapter in enumerate(rows):
        assert all(
            torch.allclose(mixed[row], mixed[other], atol=0.1) == (adapter is another)
            for other, another in enumerate(rows)
        )


def test_a_saved_adapter_is_read_as_it_was(base: LoadedBaseModel, tmp_path: Path) -> None:
    adapter = random_adapter(base, 3, train_unembed=False)
    save_adapter(adapter, tmp_path / "saved", base.adapted_model)
    read = base.load_adapter(tmp_path / "saved").named_weights()
    assert all(torch.equal(read[name], own) for name, own in adapter.named_weights().items())
    with pytest.raises(InvalidRequest, match="which this model trains"):
        base.load_adapter(tmp_path / "saved", like=random_adapter(base, 3))


def test_in_bfloat16_adapters_are_trained_in_float32_and_sampled_in_bfloat16(
    tmp_path: Path,
) -> None:
    base = LoadedBaseModel.load("tinkex/tiny", "cpu", "bfloat16")
    adapter = base.new_adapter(LoraShape(rank=2, seed=1))
    assert {weight.dtype for weight in adapter.named_weights().values()} == {torch.float32}
    with base.acquire(adapter) as network:
        network(input_ids=torch.tensor([[1, 2, 3]])).logits.float().sum().backward()
    assert all(
        weights.b.grad is not None and weights.b.grad.abs().sum() > 0
        for weights in adapter.layers.values()
    )
    save_adapter(adapter, tmp_path / "saved", base.adapted_model)
    assert {w.dtype for w in base.load_adapter(tmp_path / "saved").named_weights().values()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize(
    ("device", "dtype", "words"),
    [("abacus", None, "no device 'abacus'"), ("cpu", "int3", "dtype 'int3'")],
)
def test_a_device_or_precision_that_there_is_not_is_refused(
    device: str, dtype: str | None, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        LoadedBaseModel.load("tinkex/tiny", device, dtype)
