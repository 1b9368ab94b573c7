"""Samples of models whose layers keep a recurrent state come and go in one batch, and are those of
transformers' `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BambaConfig, GraniteMoeHybridConfig, JambaConfig, Qwen3NextConfig

from tests.support.model_zoo import make_model, tiny_config
from tinkex_server.engine.interface import SampleSpec
from tinkex_server.engine.torch.engine import TorchEngine

COMMON = list(range(40, 64))  # long enough to be kept, where that is possible
PROMPTS = [[*COMMON, 5, 9], [7, 50, 21], [*COMMON, 77], [3], [*COMMON, 5, 9]]
LENGTHS = [3, 14, 9, 1, 11]


def greedy(model: Any, prompt: Sequence[int], length: int) -> list[int]:
    tokens = torch.tensor([prompt])
    made = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=length,
        eos_token_id=None,
        pad_token_id=0,
    )
    return made[0, len(prompt) :].tolist()


@pytest.mark.filterwarnings("ignore")  # of transformers: there are no kernels for a CPU
@pytest.mark.parametrize(
    "config", [Qwen3NextConfig, GraniteMoeHybridConfig, BambaConfig, JambaConfig]
)
def test_samples_that_join_and_leave_are_those_of_generate(config: Any, tmp_path: Path) -> None:
    model = make_model(tiny_config(config), tmp_path)
    engine = TorchEngine([str(tmp_path)], "cpu")
    engine.load_sampler("s", str(tmp_path), None)

    def asked(prompt: Sequence[int], length: int) -> Any:
        spec = SampleSpec(prompt, 2, max_tokens=length, temperature=0.0, stop_tokens=[])
        return engine.sample("s", spec)

    waves = [
        [asked(prompt, length) for prompt, length in zip(PROMPTS, LENGTHS, strict=True)],
        [asked(prompt, length) for prompt, length in zip(PROMPTS, LENGTHS[::-1], strict=True)],
    ]
    for futures, lengths in zip(waves, (LENGTHS, LENGTHS[::-1]), strict=True):
        for prompt, length, future in zip(PROMPTS, lengths, futures, strict=True):
            result = future.result(60)
            assert result.prompt_cache_hit_tokens == 0, "a state cannot be cut"
            for sequence in result.sequences:
                assert list(sequence.tokens) == greedy(model, prompt, length)
    engine.close()
