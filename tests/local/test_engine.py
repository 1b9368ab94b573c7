"""The engine trains, samples what it learned, and keeps its models apart."""

from pathlib import Path

import numpy as np
import pytest

from tinkex.local.engine.base import AdamSettings, Example, InvalidRequest, LoraShape, SampleSpec
from tinkex.local.engine.torch_engine import TorchEngine

TEXT = np.frombuffer(b"forty two is 42\n", dtype=np.uint8).astype(np.int64)
BATCH = [Example(TEXT[:-1], {"target_tokens": TEXT[1:]})] * 4


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(["tinkex/tiny"])


def test_it_learns_and_samples_what_it_learned(engine: TorchEngine, tmp_path: Path) -> None:
    engine.create_model("a", "tinkex/tiny", LoraShape(rank=16, seed=1))
    engine.create_model("b", "tinkex/tiny", LoraShape(rank=4, seed=1))
    before = engine.forward_backward("b", BATCH, "cross_entropy", {}, backward=False)
    for _ in range(30):
        after = engine.forward_backward("a", BATCH, "cross_entropy", {}, backward=True)
        engine.optim_step("a", AdamSettings(learning_rate=3e-3))
    assert after.metrics["loss:sum"] < 0.1 * before.metrics["loss:sum"]
    assert engine.forward_backward("b", BATCH, "cross_entropy", {}, backward=False).metrics == before.metrics

    engine.save_model("a", tmp_path / "saved")
    engine.load_sampler("s", "tinkex/tiny", tmp_path / "saved")
    spec = SampleSpec(list(b"forty two"), 2, 20, temperature=0.0, stop_strings=["\n"], prompt_logprobs=True)
    result = engine.sample("s", spec)
    assert [(bytes(s.tokens), s.stop_reason) for s in result.sequences] == [(b" is 42\n", "stop")] * 2
    assert result.prompt_logprobs is not None
    assert result.prompt_logprobs[0] is None
    trained = engine.forward_backward("a", BATCH[:1], "cross_entropy", {}, backward=False).loss_fn_outputs[0]["logprobs"]
    np.testing.assert_allclose(result.prompt_logprobs[1:], trained[:8], atol=1e-4)


def test_a_seed_fixes_the_sample(engine: TorchEngine) -> None:
    engine.load_sampler("base", "tinkex/tiny", None)
    spec = SampleSpec(list(b"The hacker"), 2, 12, seed=7)
    assert engine.sample("base", spec) == engine.sample("base", spec)


@pytest.mark.parametrize(
    ("inputs", "loss", "words"),
    [
        ({"target_tokens": TEXT[1:] + 300}, "cross_entropy", "is not a token"),
        ({"target_tokens": TEXT}, "cross_entropy", "of shape"),
        ({}, "cross_entropy", "lacks 'target_tokens'"),
        ({"target_tokens": TEXT[1:]}, "nonsense", "unknown loss_fn"),
    ],
)
def test_what_cannot_be_done_is_said(engine: TorchEngine, inputs: dict[str, np.ndarray], loss: str, words: str) -> None:
    engine.create_model("c", "tinkex/tiny", LoraShape(rank=2))
    with pytest.raises(InvalidRequest, match=words):
        engine.forward_backward("c", [Example(TEXT[:-1], inputs)], loss, {}, backward=True)
    engine.unload_model("c")
