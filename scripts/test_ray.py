"""Runs the tests that need Ray, in an environment of its own: `make test-ray`. Arguments go to
pytest.
"""

from __future__ import annotations

import subprocess
import sys

from ray_environment import environment, python_with_ray

TESTS = ("tests/server/engine/ray", "tests/client/ray")


def main() -> int:
    command = [python_with_ray(), "-m", "pytest", *(sys.argv[1:] or TESTS)]
    return subprocess.run(command, env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
