"""An engine computes on one thread, whichever threads call it, and all have their turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.engine_forks import Forks
from tinkex_server.engine.torch.compute_thread import ComputeThread

# prints how many threads torch itself started, with 3 for each thread that computes
_ALL_KINDS_OF_WORK = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, torch
from tinkex_server.engine.interface import AdamSettings, Example, LoraShape, SampleSpec
from tinkex_server.engine.torch.engine import TorchEngine

def own_threads():
    return len(list(Path("/proc/self/task").iterdir())) - len(threading.enumerate())

torch.set_num_threads(3)
folder, before = Path(sys.argv[1]), own_threads()
engine = TorchEngine(["tinkex/tiny"], "cpu")
tokens = np.arange(513) % 256
data = [Example(tokens[:-1], {"target_tokens": tokens[1:]})] * 3
together = threading.Barrier(4)

def work(name):
    engine.create_model(name, "tinkex/tiny", LoraShape(rank=32))
    together.wait()
    engine.forward_backward(name, data, "cross_entropy", {}, backward=True)
    engine.optim_step(name, AdamSettings())
    together.wait()
    engine.save_model(name, folder / name, optimizer=True)
    engine.load_model(name, folder / name, optimizer=True)
    engine.load_sampler(name, "tinkex/tiny", folder / name)
    specs = [SampleSpec([row] * 200, max_tokens=3, stop_tokens=[]) for row in range(3)]
    samples = [engine.sample(name, spec) for spec in specs]
    assert all(len(sample.result().sequences[0].tokens) == 3 for sample in samples)

with ThreadPoolExecutor(4) as callers:
    list(callers.map(work, "abcd"))
    print(own_threads() - before)
"""


@pytest.fixture
def compute() -> Iterator[ComputeThread]:
    with closing(ComputeThread()) as thread:
        yield thread


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_torch_has_one_team_of_threads_whoever_calls(
    tmp_path: Path, forks: Callable[[], Forks]
) -> None:
    # no second team beside it, for a crowded machine
    counted = forks().output_of(_ALL_KINDS_OF_WORK, str(tmp_path), OMP_WAIT_POLICY="PASSIVE")
    # with its caller they are the three
    assert int(counted) == 2


def test_work_in_turns_lets_others_go_before_its_next_turn(compute: ComputeThread) -> None:
    order: list[str] = []

    def work() -> Generator[None, None, str]:
        order.append("first turn")
        for other in ("another", "a third"):
            compute.submit(lambda other=other: order.append(other))
        yield
        order.append("second turn")
        return "done"

    assert compute.run_in_turns(work()) == "done"
    assert order == ["first turn", "another", "a third", "second turn"]


def test_an_error_reaches_whoever_asked(compute: ComputeThread) -> None:
    def failing() -> Generator[None, None, None]:
        yield
        raise ZeroDivisionError("in the second turn")

    with pytest.raises(ZeroDivisionError, match="second turn"):
        compute.run_in_turns(failing())
    assert compute.run(lambda: 1) == 1
