"""An engine process that hangs is killed, and one that works, or has nothing to do, is not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.support.batches import example
from tests.support.killable_engine import BASES, COMPUTES, HOLDS, WAITS, KillableEngine
from tinkex_server.engine.interface import EngineDied, LoraShape, SampleSpec
from tinkex_server.engine.process.engine import ProcessEngine
from tinkex_server.engine.process.hang_detector import Activity, HangDetector, HangTimeouts

QUIET = Activity(busy=True, messages=5, answers=2, cpu=1.0)


def looks(*signs: Activity, silent: float = 3.0, idle: float = 5.0) -> list[str | None]:
    """Returns what the detector says at each observation after a first one."""
    detector = HangDetector(HangTimeouts(silent=silent, idle=idle), period=1.0)
    detector.observe(QUIET)
    return [detector.observe(now) for now in signs]


def alive(*cpu: float, answers: int = 2) -> list[Activity]:
    return [Activity(True, 6 + number, answers, taken) for number, taken in enumerate(cpu)]


def test_a_process_may_be_silent_for_a_limited_time() -> None:
    *before, last = looks(QUIET, QUIET, QUIET)
    assert before == [None, None]
    assert last
    assert "sent no heartbeat for 3 s" in last


def test_any_message_counts_as_a_heartbeat() -> None:
    now_and_then = [Activity(True, 5 + number // 2, 2, 1.0) for number in range(30)]
    assert looks(*now_and_then, idle=100.0) == [None] * 30


def test_a_deadlocked_process_is_detected_by_its_cpu_time() -> None:
    *before, last = looks(*alive(1.0, 1.001, 1.002, 1.003, 1.004))
    assert before == [None] * 4
    assert last
    assert "neither answered nor used the CPU for 5 s" in last


def test_a_process_that_computes_or_answers_is_never_killed() -> None:
    assert looks(*alive(*range(2, 100))) == [None] * 98
    answering = [Activity(True, 6 + number, 3 + number // 4, 1.0) for number in range(100)]
    assert looks(*answering) == [None] * 100


def test_a_process_with_nothing_to_do_may_be_silent() -> None:
    idle = Activity(False, 5, 2, 1.0)
    assert looks(*[idle] * 10, QUIET, QUIET, QUIET) == [None] * 13, (
        "it is waited for only from the second of these on"
    )


@contextmanager
def impatient() -> Iterator[ProcessEngine]:
    """Yields an engine that may hang for three seconds."""
    with closing(
        ProcessEngine(
            KillableEngine, BASES, pauses=(0, 0), hang_timeouts=HangTimeouts(silent=3.0, idle=3.0)
        )
    ) as engine:
        engine.create_model("x", "fake/base", LoraShape(4))
        engine.load_sampler("s", "fake/base", None)
        yield engine


@pytest.fixture
def engine() -> Iterator[ProcessEngine]:
    with impatient() as engine:
        yield engine


def step(engine: ProcessEngine, token: int) -> float:
    return engine.forward_backward(
        "x", [example(token, 6)], "cross_entropy", {}, backward=True
    ).metrics["loss:sum"]


def test_a_stopped_process_is_killed_and_another_takes_its_place(engine: ProcessEngine) -> None:
    stopped, under_way = engine.pid, engine.sample("s", SampleSpec([WAITS]))
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(
        EngineDied, match=r"process sent no heartbeat for 3 s.*was killed.*, and is being restarted"
    ):
        under_way.result(20)
    assert engine.pid != stopped
    engine.create_model("x", "fake/base", LoraShape(4))
    assert step(engine, 5) > 0


@pytest.mark.parametrize(
    ("token", "how"), [(HOLDS, "sent no heartbeat"), (WAITS, "neither answered nor used the CPU")]
)
def test_a_hanging_call_ends_the_process_after_a_stack_dump(
    capfd: pytest.CaptureFixture[str], token: int, how: str
) -> None:
    with impatient() as engine, pytest.raises(EngineDied, match=how):
        step(engine, token)
    assert "in _behave" in capfd.readouterr().err


@pytest.mark.slow
def test_a_long_computation_is_left_alone(engine: ProcessEngine) -> None:
    pid = engine.pid
    assert step(engine, COMPUTES) > 0
    assert engine.pid == pid


def test_an_idle_process_that_was_suspended_continues(
    engine: ProcessEngine,
) -> None:
    pid = engine.pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(4.5)  # more than the timeouts
    os.kill(pid, signal.SIGCONT)
    assert step(engine, 5) > 0
    assert engine.pid == pid
