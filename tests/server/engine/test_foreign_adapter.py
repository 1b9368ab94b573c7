"""Adapters that peft made: taken with the logprobs that they have in peft, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config

from tests.support.model_zoo import make_model
from tests.support.peft_models import ROW, SIZES, logprobs
from tinkex_server.engine.interface import AdamSettings, Example, InvalidRequest, LoraShape
from tinkex_server.engine.torch.engine import TorchEngine

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = LoraShape(4, train_unembed=False)
EXAMPLE = Example(np.array(ROW[:-1]), {"target_tokens": np.array(ROW[1:])})
pytestmark = pytest.mark.filterwarnings("ignore")  # of peft


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model(Qwen3Config(**SIZES, tie_word_embeddings=False), folder)
    return folder


@pytest.fixture
def engine(base: Path) -> Any:
    engine = TorchEngine([str(base)], "cpu")
    yield engine
    engine.close()


def made_by_peft(base: Path, folder: Path, **config: Any) -> Path:
    """An adapter whose two matrices are all drawn, so that it changes the model a lot."""
    torch.manual_seed(5)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ALL, "task_type": "CAUSAL_LM", **config}
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    adapted.save_pretrained(folder)
    return folder


def in_peft(base: Path, adapter: Path) -> Any:
    return logprobs(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    )


def ours(engine: TorchEngine, base: Path, folder: Path, shape: LoraShape = SHAPE) -> Any:
    """Logprobs of a model that was loaded from a folder of the engine's own."""
    engine.create_model("m", str(base), shape)
    engine.load_model("m", folder, optimizer=False)
    result = engine.forward_backward("m", [EXAMPLE], "cross_entropy", {}, backward=False)
    return np.asarray(result.loss_fn_outputs[0]["logprobs"])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"lora_alpha": 32},
        {"lora_alpha": 5},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear"},
        {"lora_dropout": 0.1},
        {"layers_to_transform": [1]},
    ],
    ids=str,
)
def test_an_adapter_of_peft_gives_the_same_logprobs_as_in_peft(
    config: dict[str, Any], base: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    adapter = made_by_peft(base, tmp_path / "theirs", **config)
    expected = in_peft(base, adapter)
    bare = logprobs(AutoModelForCausalLM.from_pretrained(base))
    assert np.abs(expected - bare).max() > 0.1, "the adapter does something"
    engine.import_adapter(str(base), SHAPE, adapter, tmp_path / "ours")
    np.testing.assert_allclose(ours(engine, base, tmp_path / "ours"), expected, atol=1e-5)
    np.testing.assert_allclose(in_peft(base, tmp_path / "ours"), expected, atol=1e-5)


def test_layers_that_the_adapter_lacks_are_trained_afterwards(
    base: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    adapter = made_by_peft(base, tmp_path / "theirs", target_modules=["q_proj"])
    engine.import_adapter(str(base), SHAPE, adapter, tmp_path / "ours")
    ours(engine, base, tmp_path / "ours")
    for _ in range(3):
        engine.forward_backward("m", [EXAMPLE], "cross_entropy", {}, backward=True)
        engine.optim_step("m", AdamSettings(learning_rate=1e-2))
    engine.save_model("m", tmp_path / "trained", optimizer=False)
    weights = load_file(tmp_path / "trained" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    assert float(weights[name].abs().max()) > 0


def test_adapters_saved_by_the_engine_are_restored_exactly(
    base: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    engine.import_adapter(str(base), SHAPE, made_by_peft(base, tmp_path / "a"), tmp_path / "b")
    engine.import_adapter(str(base), SHAPE, tmp_path / "b", tmp_path / "c")
    first, second = (load_file(tmp_path / at / "adapter_model.safetensors") for at in "bc")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text())
        change(config)
        file.write_text(json.dumps(config))

    return edit


def reweighted(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        weights = dict(load_file(file))
        change(weights)
        save_file(weights, file)

    return edit


Q = "base_model.model.model.layers.0.self_attn.q_proj"


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (edited(lambda config: config.update(r=8)), "r is 8, but lora_config has rank 4"),
        (edited(lambda config: config.update(use_dora=True)), "use_dora is True"),
        (edited(lambda config: config.update(bias="all")), "bias is 'all'"),
        (edited(lambda config: config.update(rank_pattern={"q_proj": 2})), "rank_pattern"),
        (edited(lambda config: config.update(modules_to_save=["lm_head"])), "modules_to_save"),
        (edited(lambda config: config.update(peft_type="IA3")), "peft_type is 'IA3'"),
        (edited(lambda config: config.update(lora_alpha=None)), "lora_alpha is None"),
        (edited(lambda config: config.update(lora_alpha=float("nan"))), "lora_alpha is nan"),
        (
            lambda folder: (folder / "adapter_config.json").write_text("[1"),
            "adapter_config.json cannot be read",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "is not a JSON object"),
        (cut, "adapter_model.safetensors cannot be read"),
        (reweighted(lambda weights: weights.clear()), "contains no weights"),
        (
            reweighted(lambda weights: weights[f"{Q}.lora_A.weight"].fill_(float("nan"))),
            "NaN or infinity",
        ),
        (
            reweighted(lambda weights: weights.pop(f"{Q}.lora_B.weight")),
            "lacks lora_B of model.layers.0",
        ),
        (
            reweighted(lambda weights: weights.update({f"{Q}.lora_A.weight": torch.zeros(4, 8)})),
            r"is \[4, 8\]",
        ),
        (
            reweighted(lambda weights: weights.update({f"{Q}.weight": torch.zeros(4, 8)})),
            "is not a weight of a LoRA",
        ),
        (
            reweighted(
                lambda weights: weights.update(
                    {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 32)}
                )
            ),
            "weights for lm_head, which this lora_config does not train",
        ),
    ],
)
def test_invalid_adapters_are_refused_with_a_reason(
    spoil: Callable[[Path], None], words: str, base: Path, engine: TorchEngine, tmp_path: Path
) -> None:
    adapter = made_by_peft(base, tmp_path / "theirs")
    spoil(adapter)
    with pytest.raises(InvalidRequest, match=words):
        engine.import_adapter(str(base), SHAPE, adapter, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
