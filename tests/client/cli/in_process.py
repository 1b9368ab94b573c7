"""Runs commands in the process of the test."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from tinkex.cli import main


def run(*args: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, list(args), input=given, catch_exceptions=False)


def data(*args: str, given: str | None = None) -> Any:
    """Returns what the command writes with `--json`, once it has succeeded."""
    done = run(*args, "--json", given=given)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)
