"""The embedded server with a model of a benchmark, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_SERVE = (
    "import sys, tinkex.local as t; s = t.serve(sys.argv[1]); print(s.base_url, flush=True); "
    "sys.stdin.read(); s.close()"
)


@contextmanager
def serving(model: Path) -> Generator[str]:
    """Returns the URL of the server."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        assert process.stdin
        process.stdin.close()
