"""The scripts of examples/: each is short, runs as it is, and has the effect that it speaks of."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from tinkex.local import Server

EXAMPLES = Path(__file__).parents[2] / "examples"


def numbers(output: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, output)]


def falls(values: Sequence[float]) -> bool:
    return len(values) > 1 and values[-1] < values[0]


EFFECTS: dict[str, Callable[[str], bool]] = {
    "sft.py": lambda out: "red: stop\ngreen: go\nblue: ask\n" in out,
    "rl.py": lambda out: falls([-x for x in numbers(out, r"mean reward ([\d.]+)")]),
    "dpo.py": lambda out: all(a < b for a, b in pairwise(numbers(out, r"margin (-?[\d.]+)"))),
    "distillation.py": lambda out: falls(numbers(out, r"teacher (-?[\d.]+)")),
    "logprob_evaluation.py": lambda out: "2 of 2 right" in out,
    "many_samples.py": lambda out: bool(re.search(r"\d+ tokens sampled, 0 prompts failed", out)),
    "checkpoints.py": lambda out: (
        "adapter_config.json, adapter_model.safetensors" in out
        and "the resumed model trains alike" in out
    ),
    "recovery.py": lambda out: "6 steps, 1 recovery" in out,
    "several_models.py": lambda out: (
        falls(numbers(out, r": loss ([\d.]+)")) and "kept 0.003: tinker://" in out
    ),
    "custom_loss.py": lambda out: falls(numbers(out, r": loss ([\d.]+)")),
    "telemetry.py": lambda out: (
        out.count("training.step forward_backward: ") == 3
        and out.count("training.step optim_step: ") == 3
        and out.count("http.request optim_step: ") == 3
        and all(ms > 0 for ms in numbers(out, r"step \d: (\d+) ms"))
    ),
    "streaming.py": lambda out: "20 tokens; the unlikeliest had" in out,
}
ELSEWHERE = {"survives_kill.py"}
"""Scripts that start servers of their own."""


def test_every_example_is_short_and_tested() -> None:
    scripts = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert scripts.keys() == EFFECTS.keys() | ELSEWHERE
    assert all(len(scripts[name].splitlines()) <= 60 for name in EFFECTS)


@pytest.mark.parametrize("name", EFFECTS)
def test_an_example_runs(
    name: str,
    torch_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "telemetry.py":
        pytest.importorskip("opentelemetry.sdk")
    monkeypatch.setenv("TINKER_BASE_URL", torch_server.base_url)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    output = capsys.readouterr().out
    assert EFFECTS[name](output), output
