"""A downloaded adapter names the modules that it changes, also where the server left them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from tests.support.whole_job import ADAM, BATCH, PROMPT
from tinkex import ServiceClient
from tinkex.downloads.adapter_targets import add_target_modules
from tinkex.local import Server

PREFIX = "base_model.model.model.layers.0."


def adapter(folder: Path, settings: Any, *modules: str) -> Path:
    """A folder with these settings, and weights of these modules."""
    (folder / "adapter_config.json").write_text(
        settings if isinstance(settings, str) else json.dumps(settings)
    )
    names = [f"{PREFIX}{module}.lora_{half}.weight" for module in modules for half in "AB"]
    save_file(
        {name: np.zeros((2, 2), np.float32) for name in names}, folder / "adapter_model.safetensors"
    )
    return folder / "adapter_config.json"


def test_missing_target_modules_are_read_from_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = adapter(tmp_path, {"r": 2, "target_modules": None}, "self_attn.q_proj", "mlp.up_proj")
    add_target_modules(tmp_path)
    assert json.loads(config.read_text()) == {"r": 2, "target_modules": ["q_proj", "up_proj"]}
    assert "peft would drop weights" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 2, "target_modules": ["q_proj"]},
        {"r": 2, "target_parameters": ["experts.up"]},
        [1],
        "no JSON",
        "[" * 10**5,
    ],
)
def test_complete_or_unreadable_configurations_are_not_changed(
    tmp_path: Path, settings: Any
) -> None:
    config = adapter(tmp_path, settings, "self_attn.q_proj", "mlp.up_proj")
    before = config.read_bytes()
    add_target_modules(tmp_path)
    assert config.read_bytes() == before


@pytest.mark.parametrize(
    "weights",
    [
        None,
        b"",
        b"weights" * 100,
        (10**15).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_weights_that_cannot_be_read_change_nothing(tmp_path: Path, weights: bytes | None) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    if weights is not None:
        (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    add_target_modules(tmp_path)
    assert (tmp_path / "adapter_config.json").read_text() == '{"r": 2}'


def test_peft_loads_all_of_such_an_adapter(torch_server: Server, tmp_path: Path) -> None:
    """The adapter is one as SkyRL 0.3 serves it: the same weights, and no target_modules."""
    with ServiceClient(base_url=torch_server.base_url, api_key="tml-x") as service:
        trainer = service.create_lora_training_client(
            "tinkex/tiny", rank=8, seed=1, train_unembed=False
        )
        trainer.forward_backward(BATCH, "cross_entropy").result()
        trainer.optim_step(ADAM).result()
        trained = (
            trainer.forward(BATCH, "cross_entropy")
            .result()
            .loss_fn_outputs[1]["logprobs"]
            .to_numpy()[:-1]
        )
        saved = trainer.save_weights_for_sampler("whole").result().path
        folder = service.create_rest_client().download_checkpoint(saved, output_dir=tmp_path)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": None}))
    add_target_modules(folder)
    assert _logprobs(folder) == pytest.approx(trained, abs=1e-4)


@torch.inference_mode()
def _logprobs(folder: Path) -> Any:
    base = AutoModelForCausalLM.from_pretrained(Path(__file__).parents[3] / "tinkex" / "tiny")
    model: Any = PeftModel.from_pretrained(base, str(folder)).eval().float()
    logits = model(torch.tensor([PROMPT])).logits[0, :-1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(PROMPT[1:])[:, None])[:, 0].numpy()
