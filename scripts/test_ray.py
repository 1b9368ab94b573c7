"""Runs the tests that need Ray, in an environment of its own: `make test-ray`. Arguments go to
pytest; without a path among them, all these tests are run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ray_environment import environment, python_with_ray

TESTS = ("tests/server/engine/ray", "tests/client/ray")


def main() -> int:
    command = [python_with_ray(), "-m", "pytest", *pytest_arguments(sys.argv[1:])]
    return subprocess.run(command, env=environment(), check=False).returncode


def pytest_arguments(given: Sequence[str]) -> Sequence[str]:
    """Returns the arguments, with the paths of the tests unless some are given."""
    named = any(Path(one.partition("::")[0]).exists() for one in given if not one.startswith("-"))
    return [*given, *(() if named else TESTS)]


if __name__ == "__main__":
    sys.exit(main())
