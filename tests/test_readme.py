"""The examples of README.md run as they stand, but for the port."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinkex.local import Server

EXAMPLES = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["blocking", "asyncio"])
def test_an_example_trains_and_samples_what_it_learned(example: str, torch_server: Server) -> None:
    script = example.replace("http://127.0.0.1:8765", torch_server.base_url)
    assert script != example
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    *losses, sampled = done.stdout.rstrip("\n").split("\n")[:21]
    assert float(losses[-1]) < float(losses[0]) / 10
    assert sampled == " 42"
