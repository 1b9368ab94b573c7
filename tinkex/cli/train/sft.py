"""The command `tinkex train sft`."""

from __future__ import annotations

from tinkex.cli.train.recipe import recipe_command
from tinkex.recipes import SftConfig

command = recipe_command(
    SftConfig,
    "Fine-tune a model on the completions, chats or texts of a JSONL file. `tinkex data check` "
    "shows what will be trained on.",
    [
        "tinkex train sft --data numbers.jsonl --steps 100 --eval-data held_out.jsonl",
        "tinkex train sft sft.toml --learning-rate 1e-3",
        "tinkex train sft --resume runs/sft-20261129-120000",
    ],
)
