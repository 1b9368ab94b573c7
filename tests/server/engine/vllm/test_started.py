"""A vLLM that the server starts: it is told the model and the precision, comes back after each
death with its adapters, and a start that cannot succeed says why.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from tests.server.engine.vllm.conftest import PATIENCE, MakeSampler
from tests.support.fake_vllm import BASE, FakeVllm, fake_python
from tests.support.processes import is_running
from tests.support.wait_until import wait_until
from tinkex_server.engine.interface import LoraShape, SampleSpec
from tinkex_server.engine.vllm.errors import SamplerFailed
from tinkex_server.engine.vllm.process import environment_for_vllm, explain_exit
from tinkex_server.engine.vllm.settings import VllmSettings

Save = Callable[[int], Path]
SPEC = SampleSpec([5, 6, 7], num_samples=2, max_tokens=8, seed=1)


def with_pid(folder: Path, *, starts_after: int = 0) -> tuple[str, Callable[[], int]]:
    """Returns a fake interpreter that writes its process id and starts so many seconds later, and a
    function that reads the id.
    """
    file = folder / "pid"
    python = fake_python(folder, prelude=f"echo $$ $@ > {file}; sleep {starts_after}")
    return python, lambda: int(file.read_text().split()[0])


def test_a_killed_vllm_comes_back_with_its_adapters_and_samples_go_on(
    make_sampler: MakeSampler, save_adapter: Save, tmp_path: Path
) -> None:
    python, pid = with_pid(tmp_path)
    sampler = make_sampler(VllmSettings(python=python))
    assert sampler.ready.result(60) == "vLLM 0.32.0"
    sampler.load_sampler("base", BASE, None)
    sampler.load_sampler("s", BASE, save_adapter(1))
    expected = {name: sampler.sample(name, SPEC).result(20) for name in ("base", "s")}
    killed = pid()
    samples = [(name, sampler.sample(name, SPEC)) for name in ("base", "s") * 20]
    os.kill(killed, signal.SIGKILL)
    samples += [(name, sampler.sample(name, SPEC)) for name in ("base", "s") * 20]
    for name, sample in samples:
        assert sample.result(60) == expected[name]
    assert pid() != killed
    sampler.close()
    wait_until(lambda: not is_running(pid()))


def test_a_sampler_that_is_closed_while_vllm_starts_ends_it(
    make_sampler: MakeSampler, tmp_path: Path
) -> None:
    python, pid = with_pid(tmp_path, starts_after=30)
    for pause in (0.0, 0.01, 0.05, 0.2, 0.5):
        sampler = make_sampler(VllmSettings(python=python))
        time.sleep(pause)  # so that it is closed at several points of its start
        sampler.close()
        with pytest.raises(SamplerFailed, match="the engine was closed"):
            sampler.ready.result(0)
    wait_until(lambda: not is_running(pid()))


def test_the_exit_is_noticed_though_a_grandchild_holds_the_output_open(
    make_sampler: MakeSampler, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 60 &\necho 'ValueError: no'\nexit 4\n")
    python.chmod(0o755)
    sampler = make_sampler(VllmSettings(python=str(python)))
    with pytest.raises(SamplerFailed, match="exit code 4: ValueError: no"):
        sampler.ready.result(20)


def test_vllm_is_started_with_the_model_the_precision_and_the_user_s_arguments(
    make_sampler: MakeSampler, tmp_path: Path
) -> None:
    python, _ = with_pid(tmp_path)
    sampler = make_sampler(VllmSettings(python=python, args=["--max-lora-rank", "128"]))
    sampler.ready.result(60)
    said = (tmp_path / "pid").read_text()
    assert "--model /models/base" in said
    assert "--dtype float32 --max-model-len 32768" in said
    assert "--max-lora-rank 128" in said
    assert "--host 127.0.0.1" in said
    assert not sampler.warnings(LoraShape(128))


def test_an_adapter_that_is_too_large_to_be_sampled_is_noticed_before_it_is_trained(
    make_sampler: MakeSampler, fake: FakeVllm, tmp_path: Path
) -> None:
    sampler = make_sampler(VllmSettings(python=with_pid(tmp_path)[0]))
    assert not sampler.warnings(LoraShape(64))
    [warning] = sampler.warnings(LoraShape(65))
    assert '--vllm-args "--max-lora-rank 128"' in warning
    assert not make_sampler(VllmSettings(urls=[fake.url])).warnings(LoraShape(256))


def test_a_vllm_that_dies_again_and_again_is_given_up_by_name(
    make_sampler: MakeSampler, tmp_path: Path
) -> None:
    python, pid = with_pid(tmp_path)
    # a busy machine needs a while for three starts: samples wait for longer
    sampler = make_sampler(VllmSettings(python=python), evolve(PATIENCE, down=60.0))
    sampler.ready.result(60)
    sampler.load_sampler("base", BASE, None)
    Path(python).write_text("#!/bin/sh\necho 'RuntimeError: no such device'\nexit 3\n")
    os.kill(pid(), signal.SIGKILL)
    with pytest.raises(
        SamplerFailed,
        match=r"exit code 3: RuntimeError: no such device, 3 times in a row.*restart the server",
    ):
        sampler.sample("base", SPEC).result(60)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("#!/bin/sh\necho 'No module named vllm' >&2\nexit 1\n", "vLLM is not installed there"),
        ("#!/bin/sh\nexit 7\n", "ended with exit code 7 and wrote nothing"),
        ("no program\n", "--vllm-python is the path of the Python interpreter"),
    ],
)
def test_a_start_that_cannot_succeed_says_why_at_once(
    make_sampler: MakeSampler, tmp_path: Path, program: str, message: str
) -> None:
    python = tmp_path / "python"
    python.write_text(program)
    python.chmod(0o755)
    sampler = make_sampler(VllmSettings(python=str(python)))
    with pytest.raises(SamplerFailed, match=message):
        sampler.ready.result(30)


@pytest.mark.parametrize(
    ("code", "log", "message"),
    [
        (1, ["OSError: [Errno 98] Address already in use"], "choose another"),
        (
            1,
            [
                "ValueError: No available memory for the cache blocks. Try increasing",
                "RuntimeError: Engine core initialization failed. See root cause above.",
            ],
            "exit code 1: ValueError: No available memory for the cache blocks.*give vLLM less",
        ),
        (
            1,
            ["OSError: nope/nope is not a local folder and is not a valid model identifier"],
            "vLLM cannot find the base model",
        ),
        (2, ["api_server.py: error: unrecognized arguments: --x"], "does not know an argument"),
        (-9, [], r"was killed by SIGKILL \(perhaps because memory ran out\)"),
        (1, ["one", "two"], "exit code 1: one / two"),
        (
            1,
            ["python: Error while finding spec (ModuleNotFoundError: No module named 'vllm')"],
            r"No module named 'vllm' \(vLLM is not installed there",
        ),
    ],
)
def test_the_reason_of_an_exit_is_found_in_the_log(code: int, log: list[str], message: str) -> None:
    import re

    assert re.search(message, explain_exit(code, log))


def test_vllm_does_not_import_the_packages_of_the_server() -> None:
    environment = environment_for_vllm({"PYTHONPATH": "/ours", "HOME": "/home"})
    assert "PYTHONPATH" not in environment
    assert environment["HOME"] == "/home"
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
