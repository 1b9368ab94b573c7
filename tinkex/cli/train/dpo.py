"""The command `tinkex train dpo`."""

from __future__ import annotations

from tinkex.cli.train.recipe import recipe_command
from tinkex.recipes import DpoConfig

command = recipe_command(
    DpoConfig,
    "Teach a model to prefer one of two answers, by direct preference optimization.",
    [
        "tinkex train dpo --data pairs.jsonl --epochs 2 --beta 0.1",
        "tinkex train dpo --data pairs.jsonl --start-from tinker://RUN/weights/NAME",
    ],
)
