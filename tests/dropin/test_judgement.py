"""Tests that scripts/test_dropin.py notices what did not train, and what only the official SDK can
do.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
FIRST = {"q.lora_A": np.ones((2, 2), np.float32), "q.lora_B": np.zeros((2, 2), np.float32)}
LAST = {"q.lora_A": np.ones((2, 2), np.float32), "q.lora_B": np.ones((2, 2), np.float32)}
STEPS = [{"loss": 2.0, "grad_norm": 3.0}, {"loss": 1.0, "grad_norm": 2.0}]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    yield lambda name: importlib.import_module(name)
    for name in ("cookbook", "dropin_recipes", "dropin_tests"):
        sys.modules.pop(name, None)


@pytest.fixture
def judged(script, monkeypatch, tmp_path):
    """Returns the faults that are found in a run with these steps and last weights."""
    recipes = script("dropin_recipes")

    def judge(steps, last, **recipe):
        monkeypatch.setattr(recipes, "adapter", lambda *place: last)
        monkeypatch.setattr(recipes.tinkex, "ServiceClient", lambda **settings: NoService())
        lines = "".join(json.dumps(step) + "\n" for step in steps)
        (tmp_path / "metrics.jsonl").write_text(lines)
        (tmp_path / "checkpoints.jsonl").write_text('{"sampler_path": "tinker://a/b/c"}\n')
        outcome = recipes.Outcome(recipes.Recipe("r", ("x",), **recipe), "0.6.1", "drop-in")
        recipes._judge(outcome, recipes.Start("url", "state", "graded", FIRST), tmp_path)
        return outcome.faults

    return judge


class NoService:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Closes nothing."""


def test_a_run_with_falling_losses_a_gradient_and_other_weights_has_no_fault(judged):
    assert judged(STEPS, LAST, loss="loss") == []


@pytest.mark.parametrize(
    ("steps", "last", "fault"),
    [
        (STEPS[::-1], LAST, "did not fall"),
        ([STEPS[0], STEPS[0]], LAST, "did not move"),
        ([{**step, "grad_norm": 0.0} for step in STEPS], LAST, "no gradient"),
        ([{"loss": step["loss"]} for step in STEPS], LAST, "no gradient"),
        (STEPS, FIRST, "the weights are those it began with"),
    ],
)
def test_a_run_that_did_not_train_has_a_fault(judged, steps, last, fault):
    assert any(fault in found for found in judged(steps, last, loss="loss"))


def test_a_reward_that_stands_still_is_a_fault(judged):
    steps = [{"reward": 0.0, "grad_norm": 1.0}] * 2
    assert judged(steps, LAST, reward="reward") == ["reward did not move: [0.0, 0.0]"]


@pytest.mark.parametrize(
    ("ours", "differ"),
    [([2.0, 1.00001], False), ([2.0, 1.001], True), ([2.0], True)],
    ids=["rounding", "other", "fewer"],
)
def test_losses_of_both_clients_are_compared(script, ours, differ):
    recipes = script("dropin_recipes")
    recipe = recipes.Recipe("r", ("x",), loss="loss")
    official = recipes.Outcome(recipe, "0.6.1", "official", losses=[2.0, 1.0])
    drop_in = recipes.Outcome(recipe, "0.6.1", "drop-in", losses=ours)
    assert bool(recipes.difference(official, drop_in)) == differ


def test_a_test_is_lost_that_fares_worse_than_with_the_official_sdk_also_when_tried_again(
    script, monkeypatch, tmp_path
):
    tests = script("dropin_tests")
    official = dict.fromkeys(["same", "slow", "broken", "absent"], ("passed", ""))
    official |= {"hub": ("failed", "OSError: port 17"), "hidden": ("failed", "OSError: no hub")}
    drop_in = dict.fromkeys(["slow", "broken"], ("failed", "TypeError"))
    drop_in |= {"hub": ("failed", "OSError: port 9"), "hidden": ("failed", "TypeError")}
    drop_in["same"] = ("passed", "")
    tried = []

    def report(version, suite, client, folder, only):
        tried.extend(only)
        return tests.Report(1.0, "tinkex", drop_in | {"slow": ("passed", "")})

    monkeypatch.setattr(tests, "report", report)
    reports = tests.Report(1.0, "official", official), tests.Report(1.0, "tinkex", drop_in)
    assert tests.lost(*reports, "0.6.1", "unit", tmp_path) == [
        "broken: failed TypeError (official: passed )",
        "absent: not run  (official: passed )",
        "hidden: failed TypeError (official: failed OSError: no hub)",
    ]
    assert tried[:7] == ["slow", "broken", "absent", "hidden", "broken", "absent", "hidden"]
