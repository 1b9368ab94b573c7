"""`ModelJob`: the work of one request of a model, with the checks around it."""

from __future__ import annotations

from attrs import frozen

from tinkex_server.jobs.engine_recovery import EngineRecovery
from tinkex_server.jobs.requests import StepsLost, Work
from tinkex_server.jobs.saved_states import LostSteps
from tinkex_server.jobs.seq_ids import StepOrder

_TRAINING = frozenset({"forward_backward", "optim_step"})


@frozen(kw_only=True)
class ModelJob:
    """A request of a model that was accepted; its lane calls `run` when its turn comes."""

    model_id: str
    seq_id: int | None
    kind: str
    work: Work
    lost_steps: LostSteps | None
    """The lost steps of which the sender could not know when it sent the request."""
    order: StepOrder
    recovery: EngineRecovery

    async def run(self) -> bytes:
        """Does the work and returns its result.

        Raises `OutOfTurn` for a request that is not the next one, and `EngineDied` when the request
        is based on lost steps, or the engine dies while it runs.
        """
        self.order.check(self.model_id, self.seq_id)
        self._check_lost_steps()
        result = await self._work_on_living_engine()
        self._note_done()
        return result

    def _check_lost_steps(self) -> None:
        if self.lost_steps:
            raise StepsLost(self.lost_steps)

    async def _work_on_living_engine(self) -> bytes:
        """Does the work. If the engine dies meanwhile, the outcome does not count, good or bad:
        the model is no longer the same.
        """
        exit_count = self.recovery.exit_count(self.model_id)
        try:
            result = await self.work()
        except Exception:
            self.recovery.check_still_alive(self.model_id, exit_count)
            raise
        self.recovery.check_still_alive(self.model_id, exit_count)
        return result

    def _note_done(self) -> None:
        if self.kind in _TRAINING:
            self.recovery.note_trained(self.model_id)
        self.order.note_done(self.model_id, self.seq_id)
