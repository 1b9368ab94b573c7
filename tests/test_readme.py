"""The examples of README.md and of docs/ run as they stand, but for the URL."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def examples(file: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)


BLOCKING, ASYNCIO = examples("README.md")

pytest_plugins = ["pytester"]


@pytest.mark.parametrize(
    ("example", "url"), [(BLOCKING, None), (ASYNCIO, None), (BLOCKING, "local")], ids=["blocking", "asyncio", "local"]
)
def test_an_example_trains_and_samples_what_it_learned(example: str, url: str | None, request: pytest.FixtureRequest) -> None:
    script = example.replace("http://127.0.0.1:8765", url or request.getfixturevalue("torch_server").base_url)
    assert script != example
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120)
    unsaid = [line for line in done.stderr.splitlines() if " has waited " not in line]  # which a slow machine may well say
    assert (done.returncode, unsaid) == (0, [])
    *losses, sampled = done.stdout.rstrip("\n").split("\n")[:21]
    assert float(losses[-1]) < float(losses[0]) / 10
    assert sampled == " 42"


def test_the_examples_of_tests_pass(pytester: pytest.Pytester) -> None:
    files = {f"test_{number}": example for number, example in enumerate(examples("docs/testing.md"))}
    pytester.makepyfile(**files)
    done = pytester.runpytest_subprocess("-p", "tinkex.pytest_plugin", "--strict-markers", "-W", "error")
    done.assert_outcomes(passed=sum(example.count("def test_") for example in files.values()))


def test_what_a_server_kept_is_there_when_another_uses_its_folder(tmp_path: Path) -> None:
    [example] = examples("docs/embedded_server.md")
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
