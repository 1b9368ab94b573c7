"""An engine in another process returns the same results and errors, can be cancelled, and its exit
is noticed on either side.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from tests.support.batches import example
from tests.support.killable_engine import (
    BASES,
    BREAKS,
    EXITS,
    WAITS,
    KillableEngine,
    breaks_when_made,
    cannot_be_made,
    does_not_start,
    starts_slowly,
)
from tests.support.processes import is_running
from tests.support.programs import running
from tests.support.wait_until import wait_until
from tinkex_server.engine.fake import FakeEngine
from tinkex_server.engine.interface import (
    AdamSettings,
    EngineDied,
    EngineExit,
    InvalidRequest,
    LoraShape,
    SampleSpec,
)
from tinkex_server.engine.process import frames
from tinkex_server.engine.process.engine import ProcessEngine
from tinkex_server.engine.process.messages import EngineFactory
from tinkex_server.engine.process.restart import Restarts, exit_reason
from tinkex_server.engine.remote_errors import EngineError

# as the product starts them, and not forked
pytestmark = pytest.mark.usefixtures("new_interpreters")

SPEC = SampleSpec([5, 6, 7], num_samples=2, max_tokens=8, seed=1, prompt_logprobs=True)


def environment_of(pid: int) -> dict[str, str]:
    file = Path(f"/proc/{pid}/environ")
    wait_until(lambda: bool(file.read_text()))  # for an instant it is still empty
    variables = file.read_text().split("\0")
    parts = [variable.partition("=") for variable in variables if variable]
    return {name: value for name, _, value in parts}


@pytest.fixture
def engine() -> Iterator[ProcessEngine]:
    engine = ProcessEngine(KillableEngine, BASES, pauses=(0, 0))
    yield engine
    engine.close()


@pytest.fixture
def deaths(engine: ProcessEngine) -> SimpleQueue[EngineExit]:
    deaths: SimpleQueue[EngineExit] = SimpleQueue()
    engine.watch(deaths.put)
    engine.create_model("x", "fake/base", LoraShape(4))
    engine.load_sampler("s", "fake/base", None)
    return deaths


def step(engine: ProcessEngine, *tokens: int) -> float:
    return engine.forward_backward(
        "x", [example(*tokens)], "cross_entropy", {}, backward=True
    ).metrics["loss:sum"]


def test_the_process_returns_what_its_engine_returns(
    engine: ProcessEngine, deaths: SimpleQueue[EngineExit], tmp_path: Path
) -> None:
    inside = FakeEngine(["fake/base"])
    inside.create_model("x", "fake/base", LoraShape(4))
    inside.load_sampler("s", "fake/base", None)
    assert engine.base_models == inside.base_models
    data = [example(5, 6), example(7, 8, 9)]
    theirs, ours = (
        one.forward_backward("x", data, "cross_entropy", {}, backward=True)
        for one in (engine, inside)
    )
    assert theirs.metrics == ours.metrics
    np.testing.assert_array_equal(
        theirs.loss_fn_outputs[1]["logprobs"], ours.loss_fn_outputs[1]["logprobs"]
    )
    assert engine.sample("s", SPEC).result() == inside.sample("s", SPEC).result()
    engine.save_model("x", tmp_path / "state", optimizer=True)
    engine.load_model("x", tmp_path / "state", optimizer=True)


def test_many_calls_run_side_by_side(
    engine: ProcessEngine, deaths: SimpleQueue[EngineExit]
) -> None:
    hanging = engine.sample("s", SampleSpec([WAITS]))
    samples = [engine.sample("s", SampleSpec([5], max_tokens=4, seed=seed)) for seed in range(200)]
    assert len({tuple(sample.result(10).sequences[0].tokens) for sample in samples}) == 200
    assert step(engine, 5) > 0
    assert not hanging.done()
    hanging.cancel()


def test_a_stream_comes_token_by_token_and_a_cancelled_one_ends_in_the_process(
    engine: ProcessEngine, deaths: SimpleQueue[EngineExit]
) -> None:
    told: SimpleQueue[int] = SimpleQueue()
    [sequence] = (
        engine.sample("s", SampleSpec([5], max_tokens=4), lambda token, _: told.put(token))
        .result(10)
        .sequences
    )
    assert [told.get(timeout=10) for _ in range(4)] == sequence.tokens
    stream = engine.sample("s", SampleSpec([WAITS]), lambda token, _: told.put(token))
    assert told.get(timeout=10) == 1
    assert stream.cancel()
    wait_until(lambda: engine.optim_step("x", AdamSettings())["given_up"] == 1)


def test_errors_keep_their_texts(engine: ProcessEngine, deaths: SimpleQueue[EngineExit]) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^unknown base model 'other'; this server has fake/base$"
    ):
        engine.create_model("y", "other", LoraShape(4))
    with pytest.raises(InvalidRequest, match="unknown sampler 'none'"):
        engine.sample("none", SPEC).result(10)
    with pytest.raises(EngineError, match=r"^ZeroDivisionError: the fake broke") as caught:
        step(engine, BREAKS)
    assert "killable_engine.py" in caught.value.__notes__[0], "the log has the trace of the process"


def test_calls_that_come_before_it_is_ready_are_answered_when_it_is(tmp_path: Path) -> None:
    engine = ProcessEngine(partial(starts_slowly, tmp_path / "gate"), BASES)
    assert engine.base_models == BASES
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(engine.create_model, "x", "fake/base", LoraShape(4))
        with pytest.raises(TimeoutError):
            engine.ready.result(0.1)
        assert not made.done()
        (tmp_path / "gate").touch()
        assert engine.ready.result(10).startswith("the fake engine")
        made.result(10)
    assert step(engine, 5) > 0
    engine.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (cannot_be_made, "the engine could not start: there is no folder /none"),
        (does_not_start, "the engine process ended with exit code 4 before it was ready"),
    ],
)
def test_an_engine_that_cannot_start_fails_all_calls_with_the_reason(
    make: EngineFactory, reason: str
) -> None:
    engine = ProcessEngine(make, BASES)
    with pytest.raises(EngineDied, match=f"^{reason}$"):  # sent before it is known, most likely
        engine.create_model("x", "fake/base", LoraShape(4))
    with pytest.raises(EngineDied, match=f"^{reason}$"):
        engine.ready.result(10)
    with pytest.raises(EngineDied, match=f"^{reason}$"):
        engine.sample("s", SPEC)
    engine.close()


def test_an_error_at_the_start_of_the_engine_keeps_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "tinkex.local")
    engine = ProcessEngine(breaks_when_made, BASES)
    with pytest.raises(
        EngineDied, match=r"^the engine could not start: ZeroDivisionError: the fake broke$"
    ) as caught:
        engine.ready.result(10)
    assert caught.value.__cause__
    assert "killable_engine.py" in caught.value.__cause__.__notes__[0]
    with pytest.raises(EngineDied):  # which comes after the line in the log
        engine.create_model("x", "fake/base", LoraShape(4))
    assert "killable_engine.py" in caplog.text
    engine.close()


def test_closing_an_engine_that_is_starting_does_not_wait(tmp_path: Path) -> None:
    engine = ProcessEngine(partial(starts_slowly, tmp_path / "never"), BASES)
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 4, "the process has five seconds to end by itself"
    assert not is_running(engine.pid)
    with pytest.raises(EngineDied, match="the engine was closed"):
        engine.ready.result(0)


def test_an_interrupt_at_its_start_is_left_to_the_server() -> None:
    """Ctrl-C in a terminal reaches this process, too, before it can ignore it."""
    engine = ProcessEngine(KillableEngine, BASES)
    os.kill(engine.pid, signal.SIGINT)
    try:
        engine.ready.result(timeout=20)
    finally:
        engine.close()


def test_a_death_fails_the_calls_in_progress_and_later_calls_wait_for_the_restart(
    engine: ProcessEngine, deaths: SimpleQueue[EngineExit]
) -> None:
    first, under_way = engine.pid, engine.sample("s", SampleSpec([WAITS]))
    os.kill(first, signal.SIGKILL)
    death = deaths.get(timeout=10)
    late = engine.sample("s", SPEC)
    assert not under_way.done()
    assert death.resume
    death.resume()
    for sample in (under_way, late):
        with pytest.raises(
            EngineDied, match=r"killed by SIGKILL .*memory.*, and is being restarted"
        ):
            sample.result(10)
    assert engine.pid != first
    with pytest.raises(InvalidRequest, match="unknown model 'x'"):
        step(engine, 5)


def test_a_process_that_keeps_dying_is_not_restarted(
    engine: ProcessEngine, deaths: SimpleQueue[EngineExit]
) -> None:
    def note(death: EngineExit) -> None:
        deaths.put(death)
        if death.resume:
            death.resume()

    engine.watch(note)
    for text in ["ended with exit code 3, and is being restarted"] * 2 + [
        "3 times in a row, and is not restarted any more: restart the"
    ]:
        engine.create_model("x", "fake/base", LoraShape(4))
        with pytest.raises(EngineDied, match=text):
            step(engine, EXITS)
    assert [bool(deaths.get(timeout=10).resume) for _ in range(3)] == [True, True, False]
    with pytest.raises(EngineDied):
        engine.sample("s", SPEC)


def test_closing_ends_the_process_whatever_is_under_way() -> None:
    engine = ProcessEngine(KillableEngine, BASES)
    engine.load_sampler("s", "fake/base", None)
    pid, sample = engine.pid, engine.sample("s", SampleSpec([WAITS]))
    engine.close()
    assert not is_running(pid)
    with pytest.raises(EngineDied, match="closed"):
        sample.result(0)


_PARENT = """
import sys, time
from tests.support.killable_engine import BASES, KillableEngine
from tinkex_server.engine.process.engine import ProcessEngine
engine = ProcessEngine(KillableEngine, BASES)
engine.ready.result()
print(engine.pid, flush=True)
time.sleep(60)
"""


def test_the_process_ends_when_its_parent_is_killed() -> None:
    with running([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    wait_until(lambda: not is_running(pid))


def test_arrays_go_beside_the_pickle_and_come_out_writable(tmp_path: Path) -> None:
    array = np.arange(100_000)
    frame = frames.pack({"array": array})
    assert sum(len(part) for part in frame[:2]) < 1000
    with (tmp_path / "pipe").open("wb") as file:
        frames.write(file, frame)
    with (tmp_path / "pipe").open("rb") as file:
        read = frames.read(file)["array"]
        np.testing.assert_array_equal(read, array)
        read[0] = 1
        with pytest.raises(EOFError):
            frames.read(file)


def test_a_truncated_message_ends_the_connection(tmp_path: Path) -> None:
    whole = b"".join(bytes(part) for part in frames.pack([1, 2, 3]))
    for length in range(len(whole)):
        (tmp_path / "pipe").write_bytes(whole[:length])
        with (tmp_path / "pipe").open("rb") as file, pytest.raises(EOFError):
            frames.read(file)


def test_the_reason_of_an_exit_is_described() -> None:
    assert exit_reason(3) == "ended with exit code 3"
    assert exit_reason(-11) == "was killed by SIGSEGV"
    assert "memory" in exit_reason(-9)
    assert exit_reason(-100) == "was killed by signal 100"


def test_failures_count_in_a_row_and_are_bounded() -> None:
    restarts = Restarts((0.0, 5.0))
    assert [restarts.pause(lived) for lived in (0.1, 0.1, 3600, 0.1, 0.1)] == [0, 5, 0, 5, None]
    assert restarts.given_up("it died").startswith("it died, 3 times in a row, and is not")


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("own", [{}, *({name: "1"} for name in WAITING)])
def test_torch_spins_briefly_unless_the_user_says_how_it_waits(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str]
) -> None:
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    engine = ProcessEngine(KillableEngine, BASES, pauses=(0, 0))
    try:
        found = environment_of(int(engine.pid))
    finally:
        engine.close()
    waits = {name: found[name] for name in WAITING if name in found}
    assert waits == (own or {"GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"})
