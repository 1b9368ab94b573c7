"""The command `tinkex train rl`."""

from __future__ import annotations

from tinkex.cli.train.recipe import recipe_command
from tinkex.recipes import RlConfig

command = recipe_command(
    RlConfig,
    "Reinforce the answers that a function of yours rewards: it is called with the row of the "
    "prompt and the answer, and returns a number.",
    [
        "tinkex train rl --data prompts.jsonl --reward rewards:vowels --steps 20",
        "tinkex train rl --data prompts.jsonl --reward rewards.py:vowels --loss ppo",
    ],
)
