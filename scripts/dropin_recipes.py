"""The cookbook's training loops on the embedded server, not a line of them changed, with either
client; for scripts/test_dropin.py.

A loop that ends well has not thereby trained: each must show a gradient, a loss or a reward that
moves, and weights that differ from those that it began with.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cookbook import CACHE, ROOT, VERSIONS, python_with
from official_sdk import COMPILED, ended_well
from safetensors.numpy import load_file

import tinkex
from tinkex import AdamParams, Datum, ModelInput

MODEL = "Qwen/Qwen3-8B"
TEACHER = "Qwen/Qwen3-30B-A3B-Instruct-2507"
KEY = "tml-local"
NEWEST = VERSIONS[:1]
QUESTION = "How many are {} apples less {}?"  # of the data set, whose answers are all 2
THEN = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
RANK = 8
TIMEOUT = 600  # seconds, of which a quiet machine needs one in thirty
CLIENTS = ("official", "drop-in")
# Both clients train the same weights on the same batches. Sums of some hundred float32 logprobs,
# in batches that the server puts together as requests come, differ by their order of summation.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Recipe:
    """One of the cookbook's programs, and what of its metrics shows that it trained.

    Attributes:
        loss: the name of a metric that both clients must give alike, step by step, and that must
            fall.
        reward: the name of a metric that must move.
        starts: how it is told to begin with the weights of a checkpoint: by an "argument", or,
            where it has none, by its "log", as if it had been interrupted before its first step;
            our own scripts get the path of the training "state", or of the weights to be
            "graded". One that begins "anew" has an adapter of random weights, but without effect.
        alike: how many of the losses are compared, if not all.
        more: further arguments for a release of the cookbook.
        logs_norm: whether it logs the norm of the gradient; if not, the weights alone show it.
        trains: whether it changes weights at all.
        versions: the releases of the cookbook that it runs with.
    """

    name: str
    program: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    loss: str = ""
    reward: str = ""
    starts: str = "argument"
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    logs_norm: bool = True
    trains: bool = True
    alike: int | None = None
    versions: tuple[str, ...] = VERSIONS


def _script(name: str) -> str:
    return str(ROOT / "tests" / "dropin" / name)


def math_rl(name: str, loss_fn: str, *more: str, versions: tuple[str, ...] = VERSIONS) -> Recipe:
    arguments = (
        "groups_per_batch=8",
        "group_size=8",
        "max_tokens=8",
        "learning_rate=3e-3",
        f"loss_fn={loss_fn}",
        "renderer_name=qwen3_disable_thinking",
        "eval_every=0",
        "save_every=0",
        "max_steps=4",
        *more,
    )
    return Recipe(
        f"math_rl {name}",
        ("-m", "tinker_cookbook.recipes.math_rl.train"),
        arguments,
        reward="env/all/reward/total",
        versions=versions,
    )


RECIPES = (
    Recipe(
        "sl_loop",
        ("-m", "tinker_cookbook.recipes.sl_loop"),
        ("batch_size=8", "learning_rate=1e-3", "save_every=2", "max_steps=4", "lora_rank=8"),
        loss="train_mean_nll",
        starts="log",
    ),
    Recipe(
        "chat_sl",
        ("-m", "tinker_cookbook.recipes.chat_sl.train"),
        (
            "dataset=no_robots",
            "batch_size=8",
            "learning_rate=1e-3",
            "eval_every=2",
            "save_every=2",
            "max_steps=4",
        ),
        loss="train_mean_nll",
    ),
    Recipe(
        "preference/dpo",
        ("-m", "tinker_cookbook.recipes.preference.dpo.train"),
        ("dataset=hhh", "batch_size=8", "learning_rate=1e-3", "max_steps=4"),
        loss="dpo_loss",
        logs_norm=False,
    ),
    Recipe(
        "rl_loop",
        ("-m", "tinker_cookbook.recipes.rl_loop"),
        (
            "batch_size=4",
            "group_size=16",
            "learning_rate=3e-3",
            "max_tokens=12",
            "max_steps=4",
            "save_every=2",
        ),
        reward="reward/total",
        starts="log",
        # its default has no published formula
        more={"0.6.1": ("loss_fn=importance_sampling",)},
    ),
    Recipe(
        "distillation, on policy",
        ("-m", "tinker_cookbook.recipes.distillation.on_policy_distillation"),
        (
            "dataset=deepmath",
            f"teacher_model={TEACHER}",
            "groups_per_batch=4",
            "group_size=4",
            "max_tokens=12",
            "learning_rate=3e-3",
            "renderer_name=qwen3_disable_thinking",
            "eval_every=0",
            "save_every=0",
            "max_steps=3",
        ),
        reward="teacher_kl",
    ),
    math_rl("importance_sampling", "importance_sampling"),
    math_rl("importance_sampling, async", "importance_sampling", "max_steps_off_policy=2"),
    *(math_rl(loss_fn, loss_fn, versions=NEWEST) for loss_fn in ("ppo", "cispo")),
    *(
        math_rl(f"{loss_fn}, async", loss_fn, "max_steps_off_policy=2", versions=NEWEST)
        for loss_fn in ("ppo", "cispo")
    ),
    Recipe(
        "an eval",
        (_script("run_eval.py"),),
        loss="score",
        starts="graded",
        trains=False,
        versions=NEWEST,  # 0.5.8 asks in other words than those that the adapter was taught
    ),
    Recipe(
        "rlcli train sl",
        ("-c", "from rlcli.cli import main; main()", "train", "sl"),
        (
            f"--model={MODEL}",
            "--dataset=HuggingFaceH4/no_robots/train.jsonl",
            "--renderer=qwen3_disable_thinking",
            f"--lora-rank={RANK}",
            "--lr=1e-3",
        ),
        loss="train_mean_nll",
        starts="anew",
        alike=1,
        versions=NEWEST,
    ),
    Recipe("as rllm and CLaaS do", (_script("frameworks.py"),), loss="loss", starts="state"),
)


@dataclass
class Start:
    """The server, and the checkpoints that runs begin with."""

    url: str
    state: str
    graded: str
    weights: dict[str, np.ndarray]


@dataclass
class Outcome:
    """The outcome of one run; `faults` is empty where it trained."""

    recipe: Recipe
    version: str
    client: str
    seconds: float = 0.0
    summary: str = ""
    faults: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def prepared(url: str, folder: Path) -> Start:
    """Makes the adapter that all runs begin with: trained a little, so that none of its weights is
    zero.
    """
    with tinkex.ServiceClient(base_url=url, api_key=KEY) as service:
        trainer = service.create_lora_training_client(MODEL, rank=RANK, seed=1)
        tokens = list(range(20, 60))
        datum = Datum(
            model_input=ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={"target_tokens": tokens[1:]},
        )
        for _ in range(2):
            trainer.forward_backward([datum], "cross_entropy")
            trainer.optim_step(AdamParams(learning_rate=1e-4))
        state = trainer.save_state("start").result().path
        sampler = trainer.save_weights_for_sampler("start").result().path
        weights = adapter(service, sampler, folder / "start")
        return Start(url, state, _taught(service), weights)


def _taught(service: tinkex.ServiceClient) -> str:
    """Teaches an adapter the answer to the questions of the benchmark; returns its path."""
    trainer = service.create_lora_training_client(MODEL, rank=RANK, seed=2)
    tokenizer = trainer.get_tokenizer()
    batch: list[Datum] = []
    for number in range(2, 10):
        prompt = tokenizer.encode(f"<|im_start|>user\n{QUESTION.format(number, number - 2)}{THEN}")
        answer = tokenizer.encode("\\boxed{2}<|im_end|>")
        tokens = [*prompt, *answer]
        inputs = {
            "target_tokens": tokens[1:],
            "weights": [0.0] * (len(prompt) - 1) + [1.0] * len(answer),
        }
        batch.append(Datum(model_input=ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs))
    for _ in range(20):
        trainer.forward_backward(batch, "cross_entropy")
        trainer.optim_step(AdamParams(learning_rate=5e-3))
    return trainer.save_weights_for_sampler("graded").result().path


def adapter(service: tinkex.ServiceClient, path: str, folder: Path) -> dict[str, np.ndarray]:
    """Downloads a checkpoint, and returns its tensors."""
    downloaded = service.create_rest_client().download_checkpoint(path, output_dir=folder)
    [file] = downloaded.rglob("*.safetensors")
    return load_file(file)


def run(recipe: Recipe, version: str, client: str, start: Start, folder: Path) -> Outcome:
    """Runs a recipe with the official client or the drop-in, and judges what it left."""
    outcome = Outcome(recipe, version, client)
    log = folder / f"{recipe.name} {version} {client}".replace("/", "-").replace(" ", "_")
    begun = time.monotonic()
    try:
        ran = subprocess.run(
            [
                *_command(version, client, start.url),
                *recipe.program,
                *_arguments(recipe, version, start, log),
            ],
            cwd=CACHE / "data",
            env=_environment(client, start.url),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        outcome.faults.append(f"no end after {TIMEOUT} s")
        return outcome
    outcome.seconds = time.monotonic() - begun
    if not ended_well(client, ran.returncode):
        outcome.faults.append(
            f"exit status {ran.returncode}\n{ran.stdout[-1500:]}{ran.stderr[-3000:]}"
        )
        return outcome
    _judge(outcome, start, log)
    return outcome


def _command(version: str, client: str, url: str) -> list[str | Path]:
    python = python_with(version)
    if client == "official":
        return [python]
    return [python, "-m", "tinkex", "exec", "--base-url", url, "--", "python"]


def _environment(client: str, url: str) -> dict[str, str]:
    ours = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "generated")))}
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        **({"TINKER_BASE_URL": url} if client == "official" else ours),
        **COMPILED,
        "TINKER_API_KEY": KEY,
        "HF_HOME": str(CACHE / "data" / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _arguments(recipe: Recipe, version: str, start: Start, log: Path) -> list[str]:
    if recipe.starts in ("state", "graded"):
        return [MODEL, start.state if recipe.starts == "state" else start.graded, str(log)]
    if recipe.starts == "anew":
        return [*recipe.arguments, f"--base-url={start.url}", f"--log-path={log}"]
    common = [f"model_name={MODEL}", f"log_path={log}", *recipe.more.get(version, ())]
    if recipe.starts == "argument":
        return [*common, f"load_checkpoint_path={start.state}", *recipe.arguments]
    log.mkdir(parents=True)
    interrupted = {"name": "start", "batch": 0, "state_path": start.state}
    (log / "checkpoints.jsonl").write_text(json.dumps(interrupted) + "\n")
    return [*common, *recipe.arguments]


# ---- what a run left ----


def _judge(outcome: Outcome, start: Start, log: Path) -> None:
    """Fills in the losses of a run and what it lacks of having trained."""
    steps = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    recipe = outcome.recipe
    outcome.losses = _series(steps, recipe.loss)
    if not recipe.trains:
        outcome.summary = f"score {outcome.losses[0]}"
        if not outcome.losses[0] > 0.5:
            outcome.faults.append("an adapter that was taught the answers does not give them")
        return
    moved = outcome.losses or _series(steps, recipe.reward)
    norms = [norm for name in ("grad_norm", "optim/grad_norm") for norm in _series(steps, name)]
    shift = _shift(recipe, start, log)
    norm = f"gradient {max(norms):.3g}, " if norms else ""
    outcome.summary = f"{norm}{moved[0]:.4f} to {moved[-1]:.4f}, weights by {shift:.2g}"
    if len(set(moved)) < 2:
        outcome.faults.append(f"{recipe.loss or recipe.reward} did not move: {moved}")
    if recipe.loss and moved[-1] >= moved[0]:
        outcome.faults.append(f"{recipe.loss} did not fall: {moved}")
    if recipe.logs_norm and not any(norm > 0 for norm in norms):
        outcome.faults.append(f"no gradient: {norms}")
    if not shift > 0:
        outcome.faults.append("the weights are those it began with")


def _series(steps: Iterable[dict[str, float]], name: str) -> list[float]:
    return [step[name] for step in steps if name in step]


def _shift(recipe: Recipe, start: Start, log: Path) -> float:
    """Returns the norm of the difference between the last saved weights and the first, of those
    that are zero in a new adapter.
    """
    records = [json.loads(line) for line in (log / "checkpoints.jsonl").read_text().splitlines()]
    last = [record["sampler_path"] for record in records if record.get("sampler_path")][-1]
    with tinkex.ServiceClient(base_url=start.url, api_key=KEY) as service:
        final = adapter(service, last, log / "final")
    assert final.keys() == start.weights.keys()
    anew = recipe.starts == "anew"
    changes = [
        final[name] - (0 if anew else first)
        for name, first in start.weights.items()
        if "lora_B" in name
    ]
    return float(np.sqrt(sum(np.sum(change**2) for change in changes)))


def difference(official: Outcome, drop_in: Outcome) -> str:
    """Returns what is wrong with the drop-in's losses beside those of the official client."""
    count = official.recipe.alike
    theirs, ours = official.losses[:count], drop_in.losses[:count]
    if len(theirs) == len(ours) and np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE):
        return ""
    return f"other losses: official {theirs}, drop-in {ours}"
