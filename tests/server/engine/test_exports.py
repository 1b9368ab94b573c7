"""Exported adapters are loaded by peft and transformers alone, with the same logprobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, Qwen3Config

from tests.support.model_zoo import make_model
from tests.support.peft_models import ROW, SIZES, logprobs
from tinkex_server.engine.interface import AdamSettings, Example, InvalidRequest, LoraShape
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.merge import merge

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, for tied embeddings


def trained(folder: Path, *, tied: bool) -> tuple[Path, np.ndarray[Any, Any]]:
    """A saved adapter on a new base model, and the logprobs of `ROW` with it."""
    make_model(Qwen3Config(**SIZES, tie_word_embeddings=tied), folder / "base")
    engine = TorchEngine([str(folder / "base")], "cpu")
    engine.create_model("m", str(folder / "base"), LoraShape(4, seed=1))
    example = Example(np.array(ROW[:-1]), {"target_tokens": np.array(ROW[1:])})
    for _ in range(5):
        engine.forward_backward("m", [example], "cross_entropy", {}, backward=True)
        engine.optim_step("m", AdamSettings(learning_rate=2e-2))
    result = engine.forward_backward("m", [example], "cross_entropy", {}, backward=False)
    engine.save_model("m", folder / "adapter", optimizer=False)
    engine.close()
    return folder / "adapter", np.asarray(result.loss_fn_outputs[0]["logprobs"])


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_finds_its_base_model_by_itself_and_merges(tied: bool, tmp_path: Path) -> None:
    adapter, expected = trained(tmp_path, tied=tied)
    assert json.loads((adapter / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(tmp_path / "base")
    assert (adapter / "TIED_EMBEDDINGS.md").exists() == tied
    in_peft: Any = AutoPeftModelForCausalLM.from_pretrained(str(adapter))
    np.testing.assert_allclose(logprobs(in_peft), expected, atol=1e-4)
    merge(adapter, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(logprobs(merged), expected, atol=1e-4)
    off = np.abs(logprobs(in_peft.merge_and_unload()) - expected).max()
    # what the warning is about; were peft to mend it, the warning could go
    assert (off > 0.1) == tied


def test_tied_embeddings_are_told_when_a_model_is_made_that_trains_them(tmp_path: Path) -> None:
    make_model(Qwen3Config(**SIZES, tie_word_embeddings=True), tmp_path)
    engine = TorchEngine([str(tmp_path)], "cpu")
    assert not engine.create_model("quiet", str(tmp_path), LoraShape(4, train_unembed=False))
    [words] = engine.create_model("m", str(tmp_path), LoraShape(4))
    assert words.startswith(f"{tmp_path} ties its embeddings")
    assert "python -m tinkex.local.merge" in words
    engine.close()


def test_an_adapter_without_a_base_model_is_merged_with_the_one_given(tmp_path: Path) -> None:
    adapter, expected = trained(tmp_path, tied=False)
    config = adapter / "adapter_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None})
    )
    with pytest.raises(InvalidRequest, match="does not name its base model"):
        merge(adapter, tmp_path / "merged")
    merge(adapter, tmp_path / "merged", str(tmp_path / "base"))
    np.testing.assert_allclose(
        logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected, atol=1e-4
    )
