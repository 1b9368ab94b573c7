"""A training step of the embedded server, asked for by tinkex over HTTP, beside the same step by
torch and peft in one process.

`python -m benchmarks training_step` prints medians: of both, and of their ratio. Both are measured
in turns, so that what else the machine does moves both alike; the server runs in a process of its
own. Where other programs want the cores, set OMP_WAIT_POLICY=PASSIVE: threads that spin while they
wait for each other else make this process many times slower, and the ratio too good. It applies to
the server as well, which without it lets its threads spin briefly.
"""

# torch and transformers type some of their functions only in part
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from peft import LoraConfig, get_peft_model
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from benchmarks.report import show
from benchmarks.serving import serving
from benchmarks.small_model import make_model
from tinkex import AdamParams, Datum, ModelInput, ServiceClient

# peft asks transformers for it
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
logging.disable_progress_bar()

RANK = 32
_SHAPES = ((8, 128), (32, 256))  # datums, tokens
_ROUNDS = 15
_WARM_UP = 3
LEARNING_RATE = 1e-4
# all that the server trains
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


@frozen
class Row:
    """Medians; times in seconds."""

    datums: int
    tokens: int
    served: float
    plain: float
    ratio: float


def plain_step(
    model: Path | str, tokens: np.ndarray[Any, Any], device: str = "cpu", dtype: str = "float32"
) -> Callable[[], None]:
    """Returns a function that makes the step of the embedded server for a batch of cross_entropy:
    the sum of the losses, backward, AdamW.
    """
    config = LoraConfig(r=RANK, lora_alpha=32, target_modules=LAYERS, task_type="CAUSAL_LM")
    base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    base = base.to(torch.device(device))
    network = get_peft_model(base, config)
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], lr=LEARNING_RATE
    )
    inputs, targets = (
        torch.tensor(part, device=device) for part in (tokens[:, :-1], tokens[:, 1:])
    )

    def step() -> None:
        logits = network(input_ids=inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="sum"
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def served_step(trainer: Any, tokens: np.ndarray[Any, Any]) -> Callable[[], None]:
    """Sends both requests before it waits for the first, as a training loop does."""

    def step() -> None:
        batch = [
            Datum(ModelInput.from_ints(row[:-1]), {"target_tokens": row[1:]}) for row in tokens
        ]
        losses = trainer.forward_backward(batch, "cross_entropy")
        update = trainer.optim_step(AdamParams(learning_rate=LEARNING_RATE))
        losses.result()
        update.result()

    return step


def in_turns(
    served: Callable[[], None], plain: Callable[[], None]
) -> Sequence[tuple[float, float]]:
    """Returns the seconds that each took, round by round."""
    return [(seconds(served), seconds(plain)) for _ in range(_WARM_UP + _ROUNDS)][_WARM_UP:]


def seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        make_model(model)
        with serving(model) as url, ServiceClient(base_url=url, api_key="tml-local") as service:
            trainer = service.create_lora_training_client(str(model), rank=RANK)
            for datums, length in _SHAPES:
                tokens = np.random.default_rng(0).integers(0, 256, (datums, length + 1))
                rounds = in_turns(served_step(trainer, tokens), plain_step(model, tokens))
                served, plain = (statistics.median(times) for times in zip(*rounds, strict=True))
                yield Row(
                    datums,
                    length,
                    served,
                    plain,
                    statistics.median(ours / theirs for ours, theirs in rounds),
                )


def main() -> None:
    table = Table("forward_backward + optim_step, ms", "tinkex over HTTP", "torch + peft", "ratio")
    for row in rows():
        table.add_row(
            f"{row.datums} x {row.tokens} tokens",
            f"{1000 * row.served:.1f}",
            f"{1000 * row.plain:.1f}",
            f"{row.ratio:.2f}",
        )
    show(table)


if __name__ == "__main__":
    main()
