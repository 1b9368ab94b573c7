"""The examples of README.md and of docs/ run as they stand, but for the URL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tinkex
from tests.support.inner_pytest import run_pytest
from tests.support.markdown import python_blocks
from tinkex.local import Server

ROOT = Path(__file__).parents[2]


def examples(file: str) -> list[str]:
    return python_blocks(ROOT / file)


BLOCKING, ASYNCIO = examples("README.md")


@pytest.mark.parametrize(
    ("example", "url"),
    [(BLOCKING, None), (ASYNCIO, None), (BLOCKING, "local")],
    ids=["blocking", "asyncio", "local"],
)
def test_an_example_trains_and_samples_what_it_learned(
    example: str, url: str | None, request: pytest.FixtureRequest
) -> None:
    if url == "local":
        request.getfixturevalue("new_interpreters")  # as a user's program starts an engine
    script = example.replace(
        "http://127.0.0.1:8765", url or request.getfixturevalue("torch_server").base_url
    )
    assert script != example
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=120
    )
    # which a slow machine may well say
    unsaid = [line for line in done.stderr.splitlines() if " has waited " not in line]
    assert (done.returncode, unsaid) == (0, [])
    *losses, sampled = done.stdout.rstrip("\n").split("\n")[:21]
    assert float(losses[-1]) < float(losses[0]) / 10
    assert sampled == " 42"


def test_the_examples_of_tests_pass(tmp_path: Path) -> None:
    modules = {
        f"test_{number}": example for number, example in enumerate(examples("docs/testing.md"))
    }
    outcomes = run_pytest(tmp_path, modules)
    for module, example in modules.items():
        if tests := example.count("def test_"):
            outcomes.assert_passed(module, tests)


def test_a_checkpoint_is_found_by_the_next_server_with_the_same_folder(tmp_path: Path) -> None:
    example, _, _ = examples("docs/embedded_server.md")
    assert float(printed(example, tmp_path)) > 0


def test_a_program_adds_a_metric_of_its_own_to_its_run(tmp_path: Path) -> None:
    _, example, _ = examples("docs/embedded_server.md")
    loss, reward = printed(example, tmp_path).split()
    assert float(loss) > 0
    assert float(reward) == 0.7


def printed(example: str, folder: Path) -> str:
    """Returns what an example prints in a process of its own, where a warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_adapter_trained_elsewhere_is_uploaded_and_used(
    torch_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, example = examples("docs/embedded_server.md")
    monkeypatch.chdir(tmp_path)
    with tinkex.ServiceClient(torch_server.base_url, "tml-test") as service:
        saved = (
            service.create_lora_training_client("tinkex/tiny", rank=4)
            .save_weights_external("w")
            .result()
        )
        service.create_rest_client().download_checkpoint(saved.path).rename("my-adapter")
        made = {"service": service}
        exec(example, made)
        assert (
            made["sampler"]
            .sample(tinkex.ModelInput.from_ints([72]), 1, tinkex.SamplingParams(max_tokens=1))
            .result()
        )
        assert made["trainer"].get_info().lora_rank == 4
