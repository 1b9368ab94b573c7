"""Small passes are computed by one thread, large ones and training by all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from typing import Any

import numpy as np
import pytest
import torch

from tinkex_server.engine.interface import Example, LoraShape, SampleSpec
from tinkex_server.engine.torch.base_model import LoadedBaseModel
from tinkex_server.engine.torch.engine import TorchEngine
from tinkex_server.engine.torch.mixed_adapters import AdapterPlan
from tinkex_server.engine.torch.thread_count import threads_worth

# prints how many threads torch started for a second team that begins during a small computation
_SECOND_TEAM = """
import threading, time
from pathlib import Path
import torch
from tinkex_server.engine.torch.core_sharing import _SecondTeam
from tinkex_server.engine.torch.thread_count import threads_worth

def own_threads():
    return len(list(Path("/proc/self/task").iterdir())) - len(threading.enumerate())

torch.set_num_threads(3)
before, give_up = own_threads(), time.monotonic() + 60
with threads_worth(1):
    team = _SecondTeam(3)
    while own_threads() - before < 2 and time.monotonic() < give_up:
        time.sleep(0.01)
    print(own_threads() - before)
team.end()
"""


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """Lets torch compute by three threads."""
    several = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(several)


@pytest.fixture
def engine() -> Iterator[TorchEngine]:
    with closing(TorchEngine(["tinkex/tiny"], "cpu")) as engine:
        engine.load_sampler("base", "tinkex/tiny", None)
        yield engine


def test_a_pass_has_as_many_threads_as_it_is_worth(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    acquire = LoadedBaseModel.acquire

    def observed(base: LoadedBaseModel, plan: AdapterPlan) -> AbstractContextManager[Any]:
        seen.append(torch.get_num_threads())
        return acquire(base, plan)

    monkeypatch.setattr(LoadedBaseModel, "acquire", observed)

    def sample(prompt: int, count: int) -> list[int]:
        seen.clear()
        spec = SampleSpec([1] * prompt, num_samples=count, max_tokens=3, stop_tokens=[])
        engine.sample("base", spec).result(60)
        return list(seen)

    assert sample(prompt=8, count=1) == [1, 1, 1]
    assert sample(prompt=600, count=1) == [3, 1, 1]
    assert sample(prompt=8, count=200) == [1, 3, 3]
    # attention to many tokens is work as well
    assert sample(prompt=900, count=30) == [3, 3, 3]
    seen.clear()
    engine.create_model("a", "tinkex/tiny", LoraShape(rank=4))
    tokens = np.arange(64)
    data = [Example(tokens, {"target_tokens": tokens})]
    engine.forward_backward("a", data, "cross_entropy", {}, backward=True)
    assert seen == [3]


def test_an_error_leaves_the_number_of_threads_as_it_was() -> None:
    def fail() -> None:
        with threads_worth(1):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_a_second_team_has_its_threads_while_one_thread_computes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SECOND_TEAM],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["2"]
