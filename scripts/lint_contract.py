"""Checks openapi/tinker.yaml: that it is OpenAPI 3.1, and, where node is installed, that Redocly's
linter finds no fault in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CONTRACT_FOLDER = Path(__file__).resolve().parents[1] / "openapi"
LINTER = "@redocly/cli@2.77.0"
QUIET = {
    "REDOCLY_TELEMETRY": "off",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
    "NPM_CONFIG_UPDATE_NOTIFIER": "false",
}


def main() -> int:
    valid = subprocess.run(
        [sys.executable, "-m", "openapi_spec_validator", "tinker.yaml"], cwd=CONTRACT_FOLDER
    )
    if valid.returncode:
        return valid.returncode
    npx = shutil.which("npx")
    if npx is None:
        print("npx is not installed: the contract was validated, and not linted")
        return 0
    command = [
        npx,
        "--yes",
        LINTER,
        "lint",
        "--config=redocly.yaml",
        "--format=stylish",
        "tinker.yaml",
    ]
    linted = subprocess.run(
        command, cwd=CONTRACT_FOLDER, env=os.environ | QUIET, capture_output=True, text=True
    )
    if linted.returncode:
        print(linted.stdout, linted.stderr)
    else:
        print(f"tinker.yaml: no fault found by {LINTER}")
    return linted.returncode


if __name__ == "__main__":
    sys.exit(main())
