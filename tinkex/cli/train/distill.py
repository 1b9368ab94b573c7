"""The command `tinkex train distill`."""

from __future__ import annotations

from tinkex.cli.train.recipe import recipe_command
from tinkex.recipes import DistillConfig

command = recipe_command(
    DistillConfig,
    "Teach a model to write as a teacher would, by the reverse KL divergence on its own answers.",
    [
        "tinkex train distill --data prompts.jsonl --teacher tinker://RUN/sampler_weights/NAME",
        "tinkex train distill --data prompts.jsonl --model tinkex/tiny --teacher tinkex/tiny",
    ],
)
