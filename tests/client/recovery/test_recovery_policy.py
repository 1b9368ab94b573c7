"""The decisions of a recovery policy, and the waits and saves of a run, with a manual clock; no
server.
"""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field

from tests.support.clocks import HandClock
from tinkex import (
    APIConnectionError,
    AsyncAPIFuture,
    AsyncRecoverableRun,
    AuthenticationError,
    BadRequestError,
    ClientPoisonedError,
    ConfigError,
    GoneError,
    InternalServerError,
    InvalidInputError,
    NotFoundError,
    RateLimitError,
    RecoveryFailedError,
    RecoveryPolicy,
    RequestFailedError,
    RequestSkippedError,
    ResultLostError,
    ServerStateLostError,
    StepOutcomeUnknown,
    TinkexError,
    UnsupportedByServer,
    WaitTimeoutError,
    is_recoverable,
)
from tinkex.futures.poller import RequestState
from tinkex.recovery import decisions
from tinkex.types import SaveWeightsResponse


def status(kind: type[Any], code: int, operation: str = "optim_step") -> TinkexError:
    return kind(f"{code}", status_code=code, operation=operation)


def caused(error: TinkexError, cause: TinkexError) -> TinkexError:
    error.__cause__ = cause
    return error


UNKNOWN = StepOutcomeUnknown("who knows")
REFUSED = InvalidInputError("ragged")


@pytest.mark.parametrize(
    ("error", "recoverable"),
    [
        (UNKNOWN, True),
        (ResultLostError("lost"), True),
        (ServerStateLostError("forgotten"), True),
        (APIConnectionError("gone"), True),
        (status(InternalServerError, 503), True),
        (status(GoneError, 410), True),
        (status(NotFoundError, 404), True),
        (status(NotFoundError, 404, "load_weights"), False),
        (status(NotFoundError, 404, "delete_checkpoint"), False),
        (RequestFailedError("restarted", category="server"), True),
        (RequestFailedError("token 99", category="user"), False),
        (RequestFailedError("who knows", category="unknown"), False),
        (caused(ClientPoisonedError("not sent"), UNKNOWN), True),
        (caused(ClientPoisonedError("not sent"), REFUSED), False),
        (caused(RequestSkippedError("not sent"), status(NotFoundError, 404)), True),
        (caused(RequestSkippedError("not sent"), status(BadRequestError, 400)), False),
        (REFUSED, False),
        (status(BadRequestError, 400), False),
        (status(AuthenticationError, 401), False),
        (status(RateLimitError, 429), False),
        (WaitTimeoutError("late", waited=1.0), False),
        (UnsupportedByServer("no", server="xorl"), False),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, TinkexError) else str(value),
)
def test_only_errors_that_a_recovery_can_help_are_recoverable(
    error: TinkexError, recoverable: bool
) -> None:
    assert is_recoverable(error) is recoverable


@pytest.mark.parametrize(
    ("settings", "steps", "seconds", "due"),
    [
        ({"save_every_steps": 20}, 19, 0.0, False),
        ({"save_every_steps": 20}, 20, 0.0, True),
        ({"save_every_steps": 20}, 1, 600.0, True),  # by the ten minutes of the default
        ({"save_every_steps": 20, "save_every_minutes": None}, 1, 1e9, False),
        ({"save_every_minutes": 0.5}, 1, 29.9, False),
        ({"save_every_minutes": 0.5}, 1, 30.0, True),
        ({"save_every_minutes": 0.5}, 0, 30.0, False),  # nothing new to save
    ],
)
def test_a_run_is_saved_after_so_many_steps_or_seconds(
    settings: dict[str, Any], steps: int, seconds: float, due: bool
) -> None:
    assert RecoveryPolicy(**settings).save_due(steps, seconds) is due


@pytest.mark.parametrize(
    "settings",
    [
        {"save_every_steps": 0},
        {"save_every_minutes": 0.0},
        {"save_every_minutes": None},
        {"keep": 0},
        {"give_up_after": 0},
        {"wait_minutes": -1.0},
    ],
    ids=str,
)
def test_an_impossible_policy_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings)).split("_every")[0]):
        RecoveryPolicy(**settings)


@pytest.mark.parametrize(
    ("error", "of_the_checkpoint", "passes"),
    [
        (status(NotFoundError, 404, "load_weights"), True, False),
        (status(BadRequestError, 400, "load_weights"), True, False),
        (RequestFailedError("broken file", category="user"), True, False),
        (RequestFailedError("broken file", category="server"), True, True),
        (status(InternalServerError, 500), True, True),
        (status(InternalServerError, 503), False, True),
        (APIConnectionError("gone"), False, True),
        (status(RateLimitError, 429), False, True),
        (UNKNOWN, False, True),
        (status(AuthenticationError, 401), False, False),
        (UnsupportedByServer("no", server="arctic"), False, False),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, TinkexError) else str(value),
)
def test_a_failed_load_is_classified_by_its_error(
    error: TinkexError, of_the_checkpoint: bool, passes: bool
) -> None:
    assert (decisions.blames_checkpoint(error), decisions.may_pass(error)) == (
        of_the_checkpoint,
        passes,
    )


def test_names_of_checkpoints_are_taken_by_every_server() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,255}", decisions.checkpoint_name(12, "0a1b"))


@define(eq=False)
class Model:
    """Stands for a training client that saves at once; its name tells where its state is from."""

    name: str = "new"
    failures: list[TinkexError] = field(factory=list)
    saves: int = 0

    def save_state(self, name: str) -> AsyncAPIFuture[SaveWeightsResponse]:
        self.saves += 1

        async def save() -> SaveWeightsResponse:
            if self.failures:
                raise self.failures.pop(0)
            return SaveWeightsResponse(f"tinker://run/weights/{name}", "save_weights")

        return AsyncAPIFuture(save(), RequestState("save_weights"))


@define(eq=False)
class World:
    """A run whose server answers each reload with the next of `answers`: an error, or success once
    there are none.
    """

    clock: HandClock = field(factory=HandClock)
    answers: list[TinkexError] = field(factory=list)
    reports_state_loss: bool = True
    asked_for: list[str] = field(factory=list)
    deleted: list[str] = field(factory=list)

    async def replace(self, trainer: Any, path: str) -> Any:
        self.asked_for.append(path.rpartition("/")[2][:11])
        if self.answers:
            raise self.answers.pop(0)
        return Model(path)

    async def delete_checkpoint_from_tinker_path(self, path: str) -> None:
        self.deleted.append(path.rpartition("/")[2][:11])

    def run(
        self, policy: RecoveryPolicy, work: Callable[[AsyncRecoverableRun], Any], model: Any = None
    ) -> None:
        async def begin() -> None:
            await work(
                await AsyncRecoverableRun.begin(
                    model or Model(),
                    policy,
                    self.replace,
                    self,  # type: ignore[arg-type]  # the part of a REST client that it asks
                    self.clock,
                    reports_state_loss=self.reports_state_loss,
                )
            )

        asyncio.run(begin())


async def train(
    run: AsyncRecoverableRun, until: int, then: Callable[[int], None] = lambda step: None
) -> list[int]:
    done: list[int] = []
    async for step in run.steps(until):
        done.append(step)
        then(step)
        for _ in range(20):  # time for a save to come back
            await asyncio.sleep(0)
    return done


async def break_off(run: AsyncRecoverableRun, after: int) -> None:
    """Trains so many steps, and does not come to the end of the loop, where the last state is
    saved.
    """
    async for step in run.steps(after + 1):
        if step == after:
            break
        await asyncio.sleep(0.001)


def test_a_run_is_saved_by_minutes() -> None:
    world, model = World(), Model()

    async def work(run: AsyncRecoverableRun) -> None:
        assert await train(
            run, 10, lambda step: world.clock.__setattr__("time", world.clock.time + 25.0)
        ) == list(range(10))

    world.run(RecoveryPolicy(save_every_minutes=1.0), work, model)
    assert model.saves == 1 + 3 + 1  # at 0, 75, 150 and 225 s, and when the steps end
    assert world.deleted == ["step-000000", "step-000003", "step-000006"]


def test_a_server_that_is_away_is_waited_for_ever_longer() -> None:
    world = World(answers=[APIConnectionError("refused")] * 7)

    async def work(run: AsyncRecoverableRun) -> None:
        await break_off(run, 5)
        assert await run.recover(UNKNOWN) == 4
        assert (run.step, run.recoveries, run.trainer.name[:33]) == (
            4,
            1,
            "tinker://run/weights/step-000004-",
        )  # type: ignore[attr-defined]

    world.run(RecoveryPolicy(save_every_steps=2), work)
    assert world.clock.sleeps == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    # not the older one: the newest is not known to be at fault
    assert world.asked_for == ["step-000004"] * 8


def test_a_server_that_stays_away_ends_the_run_in_bounded_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(answers=[APIConnectionError("refused")] * 1000)

    async def work(run: AsyncRecoverableRun) -> None:
        with pytest.raises(RecoveryFailedError, match="2 minutes") as caught:
            await run.recover(UNKNOWN)
        assert isinstance(caught.value.__cause__, APIConnectionError)

    world.run(RecoveryPolicy(wait_minutes=2.0), work)
    assert 60.0 <= world.clock.time <= 120.0
    assert "reload 3 failed, retrying in 4 s: refused" in caplog.text


def test_a_checkpoint_that_cannot_be_loaded_is_passed_over_for_good() -> None:
    world = World()

    async def work(run: AsyncRecoverableRun) -> None:
        await break_off(run, 5)
        world.answers = [status(NotFoundError, 404, "load_weights")]
        assert await run.recover(UNKNOWN) == 2
        assert await run.recover(UNKNOWN) == 2

    world.run(RecoveryPolicy(save_every_steps=2), work)
    assert world.asked_for == ["step-000004", "step-000002", "step-000002"]


def test_when_no_checkpoint_can_be_loaded_the_run_ends_at_once() -> None:
    world = World(answers=[status(NotFoundError, 404, "load_weights")] * 2)

    async def work(run: AsyncRecoverableRun) -> None:
        await train(run, 2)
        with pytest.raises(RecoveryFailedError, match="none of 2 checkpoints"):
            await run.recover(UNKNOWN)

    world.run(RecoveryPolicy(save_every_steps=1), work)
    assert world.clock.sleeps == []


@pytest.mark.parametrize(("missing", "back_to"), [(None, 4), (4, 4), (3, 2), (1, 2)])
def test_a_run_goes_back_to_the_first_step_whose_result_is_missing_if_it_can(
    missing: int | None, back_to: int
) -> None:
    world = World()

    async def work(run: AsyncRecoverableRun) -> None:
        await break_off(run, 5)
        assert await run.recover(UNKNOWN, missing) == back_to

    world.run(RecoveryPolicy(save_every_steps=2), work)


def test_recoveries_without_progress_are_counted_and_progress_resets_the_count() -> None:
    world = World()

    async def work(run: AsyncRecoverableRun) -> None:
        for _ in range(3):
            await run.recover(UNKNOWN)
            await run.recover(UNKNOWN)
            await train(run, run.step + 1)
        await run.recover(UNKNOWN)
        await run.recover(UNKNOWN)
        with pytest.raises(RecoveryFailedError, match="2 recoveries") as caught:
            await run.recover(UNKNOWN)
        assert caught.value.__cause__ is UNKNOWN

    world.run(RecoveryPolicy(save_every_steps=1, give_up_after=2), work)


def test_a_failed_save_is_logged_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    world, model = World(), Model()

    async def work(run: AsyncRecoverableRun) -> None:
        model.failures = [RequestFailedError("the disk is full", category="server")]
        await train(run, 4)
        assert await run.recover(UNKNOWN) == 4

    world.run(RecoveryPolicy(save_every_steps=2), work, model)
    gc.collect()
    assert "could not save the model before step 2: the disk is full" in caplog.text
    assert "never retrieved" not in caplog.text, "its future is the run's own"


SAVE_FAILED = RequestFailedError("the engine was restarted", category="server")


@pytest.mark.parametrize(
    ("failing", "then"),
    [
        (1, [0, 1, 2, 0, 1, 2, 3, 4]),
        (2, [0, 1, 2, 3, 4, 2, 3, 4]),
        (3, [0, 1, 2, 3, 4, 4]),
    ],
    ids=["first", "second", "at the end"],
)
def test_where_nobody_says_what_was_lost_the_run_goes_back_behind_a_failed_save(
    failing: int, then: list[int]
) -> None:
    """The server may have restored the model from an earlier state, so that later steps succeed."""
    world = World(reports_state_loss=False)

    class Failing(Model):
        def save_state(self, name: str) -> AsyncAPIFuture[SaveWeightsResponse]:
            self.failures = [SAVE_FAILED] if self.saves == failing else []
            return super().save_state(name)

    async def work(run: AsyncRecoverableRun) -> None:
        assert await train(run, 5) == then

    world.run(RecoveryPolicy(save_every_steps=2), work, Failing())


def test_a_save_after_the_failed_one_is_not_gone_back_to() -> None:
    """It may lack the steps that were lost before it."""
    world, gate = World(reports_state_loss=False), asyncio.Event()

    class Slow(Model):
        def save_state(self, name: str) -> AsyncAPIFuture[SaveWeightsResponse]:
            if name[:11] != "step-000004":
                return super().save_state(name)

            async def fail() -> SaveWeightsResponse:
                await gate.wait()
                raise SAVE_FAILED

            return AsyncAPIFuture(fail(), RequestState("save_weights"))

    async def work(run: AsyncRecoverableRun) -> None:
        steps = await train(run, 8, lambda step: gate.set() if step == 6 else None)
        assert steps == [*range(7), *range(2, 8)]

    world.run(RecoveryPolicy(save_every_steps=2, keep=3), work, Slow())
    assert world.asked_for == ["step-000002"]


def test_a_save_that_comes_back_after_the_run_went_back_does_not_count_and_is_deleted() -> None:
    world, gate = World(), asyncio.Event()

    class Slow(Model):
        def save_state(self, name: str) -> AsyncAPIFuture[SaveWeightsResponse]:
            saved = super().save_state(name)

            async def later() -> SaveWeightsResponse:
                if self.saves == 3:
                    await gate.wait()
                return await saved

            return AsyncAPIFuture(later(), RequestState("save_weights"))

    async def work(run: AsyncRecoverableRun) -> None:
        steps = run.steps(9)
        for _ in range(5):  # the save before step 4 is still under way
            await anext(steps)
            await asyncio.sleep(0.001)
        assert await run.recover(UNKNOWN) == 2
        gate.set()
        await asyncio.sleep(0.01)
        assert await run.recover(UNKNOWN) == 2

    world.run(RecoveryPolicy(save_every_steps=2), work, Slow())
    assert world.deleted == ["step-000004"]


def test_the_policy_may_say_what_to_recover_from() -> None:
    world, late = World(), WaitTimeoutError("late", waited=7200.0)

    async def work(run: AsyncRecoverableRun) -> None:
        assert await run.recover(late) == 0
        with pytest.raises(StepOutcomeUnknown):
            await run.recover(UNKNOWN)

    world.run(RecoveryPolicy(reload_on=lambda error: isinstance(error, WaitTimeoutError)), work)
