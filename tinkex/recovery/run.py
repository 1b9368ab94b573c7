"""`AsyncRecoverableRun`: a training run that outlives its model on the server."""

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
"""Makes a model with the state of a path, in place of one that is given up."""


@frozen
class Checkpoint:
    """A saved state: `step` is the one to go on with."""

    step: int
    path: str


@define(eq=False)
class _Save:
    """A save under way: the step that comes after it, and how many recoveries there were when it
    was called.
    """

    step: int
    recoveries: int
    future: AsyncAPIFuture[SaveWeightsResponse]


class AsyncRecoverableRun:
    """A training run that goes back to its last saved state when the server loses the model.

    Made by `AsyncServiceClient.create_recoverable_run`. The loop asks for the number of each step.
    One that comes to its end counts, and the model is saved when the policy says so, in the order
    of training and without a wait. After `recover` the numbers go on from where the last saved
    state belongs, so that steps whose effect was lost come again: whatever is kept by the number of
    its step, such as a batch or a loss, stays right.

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
    """The model in training. After a recovery it is another one: ask the run for it at each step.
    """
    policy: RecoveryPolicy
    step: int
    """The number of the step to be done, from 0."""
    recoveries: int
    """How many there were."""

    def __init__(
        self,
        trainer: AsyncTrainingClient,
        policy: RecoveryPolicy,
        replace: Replace,
        rest: AsyncRestClient,
        clock: Clock,
    ) -> None:
        self.trainer = trainer
        self.policy = policy
        self.step = 0
        self.recoveries = 0
        self._replace = replace
        self._rest = rest
        self._clock = clock
        self._checkpoints: list[Checkpoint] = []
        self._saving: set[asyncio.Task[None]] = set()
        self._in_vain = 0  # recoveries since a checkpoint was new
        self._last_save = (0, clock.now())  # step and moment

    @classmethod
    async def begin(
        cls,
        trainer: AsyncTrainingClient,
        policy: RecoveryPolicy,
        replace: Replace,
        rest: AsyncRestClient,
        clock: Clock,
    ) -> AsyncRecoverableRun:
        """A run whose first state is saved, so that there is one to go back to from the
        beginning.
        """
        run = cls(trainer, policy, replace, rest, clock)
        await run._counted(run._begin_to_save())
        return run

    async def steps(self, until: int) -> AsyncIterator[int]:
        """The numbers of the steps below `until` that are still to be done, each as often as it
        takes.

        The state after the last step is saved before the numbers end; where that fails since the
        model is lost, the steps whose effect was lost come again.

        Raises:
            TinkexError: when the numbers end: the last state was not saved, and the policy does not
                recover from that.
            RecoveryFailedError: as `recover`.
        """
        while self.step < until or not await self._is_saved():
            before = self.recoveries
            yield self.step
            if self.recoveries == before:
                self._completed()

    async def recover(self, error: TinkexError, missing: int | None = None) -> int:
        """Reloads the last saved state into a new model, which is `trainer` from now on; returns
        the number of the step to go on with.

        A checkpoint that cannot be loaded is passed over for the one before it, and a server that
        does not answer is waited for. Drop the futures of the model that was lost, if there are
        any.

        Args:
            error: why the step failed.
            missing: for a loop that sends steps ahead, the first one whose result it still waits
                for: the run goes back to that one or
                further, even if a later state was saved, as far as `keep` allows. By default the
                step that the loop is at.

        Raises:
            TinkexError: the given error, where the policy does not recover from it.
            RecoveryFailedError: no checkpoint can be loaded, the server stays away for longer than
                the policy waits, or too many
                recoveries brought no new checkpoint.
        """
        if not self.policy.reload_on(error):
            raise error
        if self._in_vain >= self.policy.give_up_after:
            raise _failed(
                f"{self._in_vain} recoveries have brought no new checkpoint, and it failed again"
            ) from error
        self.recoveries += 1
        self._in_vain += 1
        if missing is not None:
            self._checkpoints = [
                known for known in self._checkpoints if known.step <= missing
            ] or self._checkpoints[:1]
        logger.warning(
            "step %d failed (recovery %d of %d): %s",
            self.step,
            self._in_vain,
            self.policy.give_up_after,
            error.message,
        )
        checkpoint, self.trainer = await self._reload()
        self._checkpoints = [known for known in self._checkpoints if known.step <= checkpoint.step]
        self.step, self._last_save = checkpoint.step, (checkpoint.step, self._clock.now())
        logger.warning("training goes on with step %d, from %s", checkpoint.step, checkpoint.path)
        return self.step

    def __repr__(self) -> str:
        return f"<{type(self).__name__} step {self.step} of {self.trainer!r}>"

    # ---- saving ----

    def _completed(self) -> None:
        """The step is done: its place in the order of training is before the save."""
        self.step += 1
        step, moment = self._last_save
        if self.policy.save_due(self.step - step, self._clock.now() - moment):
            task = asyncio.create_task(self._counted_or_logged(self._begin_to_save()))
            self._saving.add(task)
            task.add_done_callback(self._saving.discard)

    async def _is_saved(self) -> bool:
        """Saves the last state, unless that is done; False where the run had to go back, and there
        are steps to be done again.
        """
        await asyncio.gather(*self._saving)
        if any(known.step == self.step for known in self._checkpoints):
            return True
        try:
            await self._counted(self._begin_to_save())
        except RequestFailedError as error:
            # the model is there, and would be as it is after all steps again
            if error.state_loss is None:
                raise
            await self.recover(error)
            return False
        except TinkexError as error:
            await self.recover(error)
            return False
        return True

    def _begin_to_save(self) -> _Save:
        self._last_save = (self.step, self._clock.now())
        name = decisions.checkpoint_name(self.step, secrets.token_hex(4))
        return _Save(self.step, self.recoveries, self.trainer.save_state(name))

    async def _counted_or_logged(self, save: _Save) -> None:
        try:
            await self._counted(save)
        except TinkexError as error:
            logger.warning("the model was not saved before step %d: %s", save.step, error.message)

    async def _counted(self, save: _Save) -> None:
        """A save counts once its result is there, unless the run has gone back meanwhile."""
        checkpoint = Checkpoint(save.step, (await save.future.task).path)
        if save.recoveries == self.recoveries:
            # results may overtake each other
            known = sorted([*self._checkpoints, checkpoint], key=lambda known: known.step)
            superseded, self._checkpoints = known[: -self.policy.keep], known[-self.policy.keep :]
            self._in_vain = 0
        else:
            superseded = [checkpoint]
        for old in superseded:
            await self._delete(old.path)

    async def _delete(self, path: str) -> None:
        try:
            await self._rest.delete_checkpoint_from_tinker_path(path)
        except TinkexError as error:
            logger.info("%s was not deleted: %s", path, error.message)

    # ---- reloading ----

    async def _reload(self) -> tuple[Checkpoint, AsyncTrainingClient]:
        """The newest checkpoint that can be loaded, in a new model, as soon as the server is
        there.
        """
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
                    raise self._stays_away() from error
                logger.warning(
                    "reload %d failed, again in %.0f s: %s", attempt, seconds, error.message
                )
                await self._clock.sleep(seconds)
            except TimeoutError as error:
                raise self._stays_away() from error

    def _stays_away(self) -> RecoveryFailedError:
        return _failed(f"the server was not itself again in {self.policy.wait_minutes:g} minutes")

    async def _load_newest(self) -> tuple[Checkpoint, AsyncTrainingClient]:
        """Tries one checkpoint after the other; raises the error of the last one that was tried."""
        *newer, oldest = reversed(self._checkpoints)
        for checkpoint in newer:
            try:
                return checkpoint, await self._replace(self.trainer, checkpoint.path)
            except TinkexError as error:
                if not decisions.blames_checkpoint(error):
                    raise
                logger.warning(
                    "%s cannot be loaded, so the one before it is: %s",
                    checkpoint.path,
                    error.message,
                )
        return oldest, await self._replace(self.trainer, oldest.path)


def _failed(message: str) -> RecoveryFailedError:
    return RecoveryFailedError(
        message, operation="recover", advice="See the cause, and what the log says of the server."
    )
