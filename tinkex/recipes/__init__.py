"""Training recipes over the public clients: supervised fine-tuning, reinforcement learning, direct
preference optimization and distillation.

`train` runs one, `resume` goes on with one that ended early. What a step is, is in `sft`, `rl`,
`dpo` and `distill`; when it is taken, saved and evaluated is in `loop`. Each reads in one sitting,
and is meant to be copied and changed.

Example:
    result = train(SftConfig(data="numbers.jsonl", steps=100), service)
    print(result.metrics[-1]["loss"], result.state.sampler_path)
"""

from tinkex.recipes.config import TrainConfig
from tinkex.recipes.distill import DistillConfig
from tinkex.recipes.dpo import DpoConfig
from tinkex.recipes.evaluate import Evaluation, evaluate
from tinkex.recipes.functions import load_function
from tinkex.recipes.interrupts import Interrupts
from tinkex.recipes.loop import Goal, Result
from tinkex.recipes.rl import RlConfig
from tinkex.recipes.run import CONFIGS, resume, train
from tinkex.recipes.run_folder import RunFolder, SavedState
from tinkex.recipes.scoring import Scorer, exact_match
from tinkex.recipes.sft import SftConfig

__all__ = [
    "CONFIGS",
    "DistillConfig",
    "DpoConfig",
    "Evaluation",
    "Goal",
    "Interrupts",
    "Result",
    "RlConfig",
    "RunFolder",
    "SavedState",
    "Scorer",
    "SftConfig",
    "TrainConfig",
    "evaluate",
    "exact_match",
    "load_function",
    "resume",
    "train",
]
