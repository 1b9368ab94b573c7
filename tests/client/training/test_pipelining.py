"""A training loop that awaits each call before the next one gets one warning."""

from __future__ import annotations

import pytest

from tinkex.training.pipelining import PipelineCheck


def steps(check: PipelineCheck, count: int, *, awaited: bool, gap: float = 0.5) -> list[str]:
    """Messages over steps of one second of work for each call; `gap` passes between a result and
    the next call.
    """
    said, now = [], 0.0
    for _ in range(count):
        said.append(check.submitted("forward_backward", now))
        if awaited:
            check.finished("forward_backward", now + 1)
            said.append(check.submitted("optim_step", now + 1 + gap))
        else:
            said.append(check.submitted("optim_step", now + 0.01))
            check.finished("forward_backward", now + 1)
        check.finished("optim_step", now + 2 + gap)
        now += 2 + 2 * gap
    return [message for message in said if message]


def test_steps_awaited_one_by_one_cause_one_warning() -> None:
    [message] = steps(PipelineCheck(), 50, awaited=True)
    assert "train_step" in message
    assert "0.50 s of the 3.00 s of a step" in message


def test_pipelined_steps_cause_no_warning() -> None:
    assert steps(PipelineCheck(), 50, awaited=False) == []


@pytest.mark.parametrize("count", [1, 4])
def test_a_few_steps_cause_no_warning(count: int) -> None:
    assert steps(PipelineCheck(), count, awaited=True) == []


def test_a_gap_that_costs_little_causes_no_warning() -> None:
    assert steps(PipelineCheck(), 50, awaited=True, gap=0.001) == []


def test_one_pipelined_step_resets_the_count() -> None:
    check = PipelineCheck()
    for _ in range(10):
        assert steps(check, 3, awaited=True) == []
        assert steps(check, 1, awaited=False) == []


def test_gradients_gathered_over_several_calls_count_as_one_step() -> None:
    check, said, now = PipelineCheck(), [], 0.0
    for _ in range(20):
        for _ in range(3):
            check.submitted("forward_backward", now)
            check.finished("forward_backward", now + 1)
            now += 1.5
        said.append(check.submitted("optim_step", now))
        check.finished("optim_step", now + 1)
        now += 1.5
    assert len([message for message in said if message]) == 1


def test_a_call_in_between_that_is_awaited_is_not_held_against_the_step() -> None:
    check, now = PipelineCheck(), 0.0
    for _ in range(20):
        check.submitted("forward_backward", now)
        check.finished("forward_backward", now + 1)
        check.submitted("forward", now + 1)
        assert check.submitted("optim_step", now + 1.1) is None
        check.finished("forward", now + 2)
        check.finished("optim_step", now + 3)
        now += 4
