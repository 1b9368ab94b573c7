"""The example of a dataset that is killed and resumed, with fewer prompts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import tests.support.ray_variables  # noqa: F401  before ray is imported
from tests.support.programs import outcome_of

pytest.importorskip("ray.data", reason="ray[data] is not installed: `make test-ray` has it")

EXAMPLE = Path(__file__).parents[3] / "examples" / "ray_dataset.py"


def test_no_prompt_has_two_results_or_none_after_a_kill() -> None:
    done = outcome_of([sys.executable, EXAMPLE, "--prompts", "300"])
    assert done.returncode == 0, done.stderr
    killed = re.search(r"killed with (\d+) of 300 results", done.stdout)
    assert killed
    assert 100 <= int(killed[1]) < 300
    assert "300 results: 0 prompts twice, 0 lost" in done.stdout
