"""`tinkex version`."""

from __future__ import annotations

from click.testing import CliRunner

import tinkex
from tinkex.cli import main


def test_it_prints_the_version() -> None:
    done = CliRunner().invoke(main, ["version", "--quiet"])
    assert (done.exit_code, done.output) == (0, f"{tinkex.__version__}\n")
