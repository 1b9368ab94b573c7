"""`AsyncRecoverableRun`: a training run that survives the loss of its model on the server."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

from attrs import define, frozen

from tinkex.config.recovery import RecoveryPolicy
from tinkex.errors import RecoveryFailedError, RequestFailedError, TinkexError
from tinkex.futures.api_future import AsyncAPIFuture
from tinkex.recovery import decisions
from tinkex.rest.client import AsyncRestClient
from tinkex.training.client import AsyncTrainingClient
from tinkex.types import SaveWeightsResponse
from tinkex.waiting.clock import Clock

logger = logging.getLogger("tinkex")

Replace = Callable[[AsyncTrainingClient, str], Awaitable[AsyncTrainingClient]]
"""A function that makes a model from the checkpoint of a path, to replace a lost model."""


@frozen
class Checkpoint:
    """A saved state. `step` is the step to continue with."""

    step: int
    path: str


@define(eq=False)
class _Save:
    """A save under way, the step that follows it, and the number of recoveries at the call."""

    step: int
    recoveries: int
    future: AsyncAPIFuture[SaveWeightsResponse]


class AsyncRecoverableRun:
    """A training run that returns to its last checkpoint when the server loses the model.

    Made by `AsyncServiceClient.create_recoverable_run`. A loop over `steps` gets the number of each
    step. A step whose loop body ends without `recover` counts as done, and the model is saved as
    often as the policy says, without a wait. After `recover`, the numbers continue from the step of
    the checkpoint, so lost steps are repeated. Keep batches and losses by the number of their step,
    and they stay correct.

    Example:
        run = await service.create_recoverable_run(trainer, RecoveryPolicy(save_every_steps=20))
        async for step in run.steps(200):
            try:
                adam = AdamParams(learning_rate=1e-4)
                done = run.trainer.train_step(batches[step], "cross_entropy", adam)
                losses[step] = (await done).forward_backward.metrics["loss:sum"]
            except TinkexError as error:
                await run.recover(error)
    """

    trainer: AsyncTrainingClient
    """The client of the model. A recovery replaces it, so use `run.trainer` at each step."""
    policy: RecoveryPolicy
    """The rules of saving and recovering."""
    step: int
    """The number of the next step, from 0."""
    recoveries: int
    """The number of recoveries so far."""

    def __init__(
        self,
        trainer: AsyncTrainingClient,
        policy: RecoveryPolicy,
        replace: Replace,
        rest: AsyncRestClient,
        clock: Clock,
        *,
        reports_state_loss: bool,
    ) -> None:
        self.trainer = trainer
        self.policy = policy
        self.step = 0
        self.recoveries = 0
        self._replace = replace
        self._rest = rest
        self._clock = clock
        self._reports_state_loss = reports_state_loss
        self._failed_save: tuple[int, TinkexError] | None = None  # of a model that may be lost
        self._checkpoints: list[Checkpoint] = []
        self._saving: set[asyncio.Task[None]] = set()
        self._fruitless = 0  # recoveries since the last new checkpoint
        self._last_save = (0, clock.now())  # step and time

    @classmethod
    async def begin(
        cls,
        trainer: AsyncTrainingClient,
        policy: RecoveryPolicy,
        replace: Replace,
        rest: AsyncRestClient,
        clock: Clock,
        *,
        reports_state_loss: bool,
    ) -> AsyncRecoverableRun:
        """Starts a run, and saves its first checkpoint.

        `reports_state_loss` is whether the server says when it has lost steps of the model.
        """
        run = cls(trainer, policy, replace, rest, clock, reports_state_loss=reports_state_loss)
        await run._finish_save(run._start_save())
        return run

    async def steps(self, until: int) -> AsyncIterator[int]:
        """Yields the numbers of the steps below `until`, each as often as it must be done.

        The state after the last step is saved before the iteration ends. If a save fails because
        the model is lost, or may be, the steps since the checkpoint before it are repeated.

        Raises:
            TinkexError: at the end: the last state could not be saved, and the policy does not
                recover from the error.
            RecoveryFailedError: as from `recover`.
        """
        while self.step < until or not await self._is_saved():
            await self._recover_from_failed_save()
            before = self.recoveries
            yield self.step
            if self.recoveries == before:
                self._complete_step()

    async def recover(self, error: TinkexError, missing: int | None = None) -> int:
        """Loads the last checkpoint into a new model, which becomes `trainer`.

        Returns the number of the step to continue with.

        If a checkpoint cannot be loaded, the one before it is tried. A server that does not answer
        is waited for. Drop the futures of the lost model, if there are any.

        Args:
            error: the error of the failed step.
            missing: the first step without a result yet, for a loop that sends steps ahead. The run
                returns to that step or an earlier one, even if a later state was saved, as far as
                the policy's `keep` allows. By default the current step.

        Raises:
            TinkexError: the given error, if the policy does not recover from it.
            RecoveryFailedError: no checkpoint can be loaded, the server is unavailable for longer
                than the policy waits, or too many recoveries passed without a new checkpoint.
        """
        if not self.policy.reload_on(error):
            raise error
        if self._fruitless >= self.policy.give_up_after:
            raise _failed(
                f"the run failed again after {self._fruitless} recoveries without a new checkpoint"
            ) from error
        self.recoveries += 1
        self._fruitless += 1
        if self._failed_save is not None:
            step, self._failed_save = self._failed_save[0], None
            missing = step if missing is None else min(step, missing)
        if missing is not None:
            self._checkpoints = [
                known for known in self._checkpoints if known.step <= missing
            ] or self._checkpoints[:1]
        logger.warning(
            "step %d failed (recovery %d of %d): %s",
            self.step,
            self._fruitless,
            self.policy.give_up_after,
            error.message,
        )
        checkpoint, self.trainer = await self._reload()
        self._checkpoints = [known for known in self._checkpoints if known.step <= checkpoint.step]
        self.step, self._last_save = checkpoint.step, (checkpoint.step, self._clock.now())
        logger.warning("training continues with step %d, from %s", checkpoint.step, checkpoint.path)
        return self.step

    def __repr__(self) -> str:
        return f"<{type(self).__name__} step {self.step} of {self.trainer!r}>"

    def _complete_step(self) -> None:
        """Counts the step, and saves the model after it if the policy says so."""
        self.step += 1
        step, moment = self._last_save
        if self.policy.save_due(self.step - step, self._clock.now() - moment):
            task = asyncio.create_task(self._finish_save_or_log(self._start_save()))
            self._saving.add(task)
            task.add_done_callback(self._saving.discard)

    async def _is_saved(self) -> bool:
        """Saves the last state if it is not saved yet.

        Returns False if the run had to recover instead, so that steps must be repeated.
        """
        await asyncio.gather(*self._saving)
        if await self._recover_from_failed_save():
            return False
        if any(known.step == self.step for known in self._checkpoints):
            return True
        try:
            await self._finish_save(self._start_save())
        except TinkexError as error:
            # if the model is not lost, a recovery only brings it back to the same state
            if isinstance(error, RequestFailedError) and not self._may_have_lost_steps(error):
                raise
            await self.recover(error)
            return False
        return True

    def _may_have_lost_steps(self, error: TinkexError) -> bool:
        """Returns whether the server may have lost steps of the model when a save failed so."""
        if self._reports_state_loss:
            return isinstance(error, RequestFailedError) and error.state_loss is not None
        return self.policy.reload_on(error)

    async def _recover_from_failed_save(self) -> bool:
        """Recovers if a save has failed whose model may be lost; returns whether it has.

        The server may have restored the model by itself from an earlier state, so that later steps
        succeed, although steps are missing.
        """
        if self._failed_save is None:
            return False
        await self.recover(self._failed_save[1])
        return True

    def _start_save(self) -> _Save:
        self._last_save = (self.step, self._clock.now())
        name = decisions.checkpoint_name(self.step, secrets.token_hex(4))
        save = self.trainer.save_state(name)
        save.error_retrieved = True  # by this run, which logs it, recovers from it or raises it
        return _Save(self.step, self.recoveries, save)

    async def _finish_save_or_log(self, save: _Save) -> None:
        try:
            await self._finish_save(save)
        except TinkexError as error:
            logger.warning("could not save the model before step %d: %s", save.step, error.message)
            is_current = save.recoveries == self.recoveries
            if is_current and self._failed_save is None and self._may_have_lost_steps(error):
                self._failed_save = save.step, error

    async def _finish_save(self, save: _Save) -> None:
        """Waits for a save, and adds its checkpoint, unless the run has recovered meanwhile."""
        checkpoint = Checkpoint(save.step, (await save.future.task).path)
        if save.recoveries == self.recoveries:
            # results may arrive in another order
            known = sorted([*self._checkpoints, checkpoint], key=lambda known: known.step)
            superseded, self._checkpoints = known[: -self.policy.keep], known[-self.policy.keep :]
            self._fruitless = 0
        else:
            superseded = [checkpoint]
        for old in superseded:
            await self._delete(old.path)

    async def _delete(self, path: str) -> None:
        try:
            await self._rest.delete_checkpoint_from_tinker_path(path)
        except TinkexError as error:
            logger.info("could not delete %s: %s", path, error.message)

    async def _reload(self) -> tuple[Checkpoint, AsyncTrainingClient]:
        """Loads the newest checkpoint that works into a new model. Waits for the server."""
        ends = self._clock.now() + 60 * self.policy.wait_minutes
        attempt = 0
        while True:
            attempt += 1
            try:
                async with asyncio.timeout(max(0.0, ends - self._clock.now())):
                    return await self._load_newest()
            except TinkexError as error:
                seconds = decisions.pause(attempt)
                if not decisions.may_pass(error):
                    raise _failed(
                        f"none of {len(self._checkpoints)} checkpoints can be loaded: "
                        f"{error.message}"
                    ) from error
                if self._clock.now() + seconds > ends:
                    raise self._server_unavailable() from error
                logger.warning(
                    "reload %d failed, retrying in %.0f s: %s", attempt, seconds, error.message
                )
                await self._clock.sleep(seconds)
            except TimeoutError as error:
                raise self._server_unavailable() from error

    def _server_unavailable(self) -> RecoveryFailedError:
        return _failed(f"the server did not recover within {self.policy.wait_minutes:g} minutes")

    async def _load_newest(self) -> tuple[Checkpoint, AsyncTrainingClient]:
        """Tries the checkpoints from the newest on; raises the error of the last one tried."""
        *newer, oldest = reversed(self._checkpoints)
        for checkpoint in newer:
            try:
                return checkpoint, await self._replace(self.trainer, checkpoint.path)
            except TinkexError as error:
                if not decisions.blames_checkpoint(error):
                    raise
                logger.warning(
                    "cannot load %s, trying the checkpoint before it: %s",
                    checkpoint.path,
                    error.message,
                )
        return oldest, await self._replace(self.trainer, oldest.path)


def _failed(message: str) -> RecoveryFailedError:
    return RecoveryFailedError(
        message, operation="recover", advice="See the cause of this error, and the log."
    )
