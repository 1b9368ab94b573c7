"""Programs that run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SECONDS = 120  # of which a quiet machine needs a few


def outcome_of(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, in our environment and with these variables."""
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, **(environment or {})},
        cwd=folder,
        check=False,
    )


@contextmanager
def running(
    command: Sequence[str | Path], *, stdout: int | None = None, stderr: int | None = None
) -> Generator[subprocess.Popen[str]]:
    """Runs a command beside the block, and kills it where the block fails: `Popen` would then wait,
    for ever, until a server ends by itself.
    """
    with subprocess.Popen([*map(str, command)], text=True, stdout=stdout, stderr=stderr) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def written(folder: Path, name: str, text: str) -> Path:
    """Writes a program or module, and returns its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), "utf-8")
    return path


def run_text(text: str, folder: Path, **variables: str) -> str:
    """Runs a program in a process of its own, and returns what it printed.

    Raises `AssertionError` with its error where it fails.
    """
    done = outcome_of([sys.executable, written(folder, "program.py", text)], environment=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout
