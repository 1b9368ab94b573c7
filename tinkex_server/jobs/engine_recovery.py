"""`EngineRecovery`: restores the models of an engine that died from their last saved states, and
tells clients which steps were lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir.folders import Folders
from tinkex_server.engine.interface import Engine, EngineDied, EngineExit, InvalidRequest
from tinkex_server.jobs.futures import Futures
from tinkex_server.jobs.lanes import Job, Lanes
from tinkex_server.jobs.loading import create_and_load
from tinkex_server.jobs.requests import StepsLost
from tinkex_server.jobs.sampler_cache import SamplerCache
from tinkex_server.jobs.saved_states import LostSteps, RecoveryPlan, SavedState, SavedStates
from tinkex_server.loop_calls import call_on_loop
from tinkex_server.store import ModelRow, Store


class EngineRecovery:
    """The saved states of all models in memory, and what was lost each time that the engine died.
    To be used on the event loop's thread.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        lanes: Lanes,
        futures: Futures,
        folders: Folders,
        samplers: SamplerCache,
    ) -> None:
        self._engine = engine
        self._store = store
        self._lanes = lanes
        self._futures = futures
        self._folders = folders
        self._samplers = samplers
        self._saved_states: dict[str, SavedStates] = {}
        self._number_of_exits = 0
        # by model in memory, how often it was lost, and what the last time meant for it
        self._exit_counts: Counter[str] = Counter()
        self._exit_reasons: dict[str, str] = {}
        self._lost_steps: dict[str, LostSteps] = {}  # by model, of the last exit that lost some

    def exit_count(self, model_id: str) -> int:
        """Returns how often the engine has died while the model was in its memory."""
        return self._exit_counts[model_id]

    def watch(self) -> None:
        """Has the models recovered each time that the engine dies."""
        loop = asyncio.get_running_loop()

        def report(death: EngineExit) -> None:  # called on a thread of the engine
            if not call_on_loop(loop, self._recover, death) and death.resume:
                death.resume()  # this server has stopped, but another may use the engine

        self._engine.watch(report)

    def note_created(self, model_id: str) -> None:
        self._saved_states[model_id] = SavedStates()

    def note_state(
        self, model_id: str, path: CheckpointPath, *, optimizer: bool, seq_id: int | None = None
    ) -> None:
        """Notes that the model was saved to `path`, or loaded from it."""
        states, saved = self._saved_states.get(model_id), self._store.checkpoints.get(path)
        if states and saved:
            states.add(SavedState(path, saved.created_at, optimizer, seq_id))

    def note_trained(self, model_id: str) -> None:
        """Notes that the model's weights or gradients differ from its newest saved state."""
        if states := self._saved_states.get(model_id):
            states.trained_since = True

    def forget(self, model_id: str) -> None:
        """Drops what is kept of a model that is unloaded."""
        self._saved_states.pop(model_id, None)
        self._lost_steps.pop(model_id, None)

    def unknown_lost_steps(self, model_id: str, arrived_at: float) -> LostSteps | None:
        """Returns the model's lost steps of which the sender of a request that arrived then could
        not know.
        """
        lost = self._lost_steps.get(model_id)
        return lost if lost and lost.was_unknown(arrived_at) else None

    def check_still_alive(self, model_id: str, exit_count: int) -> None:
        """Raises `EngineDied` when the model was lost since `exit_count` was read."""
        if self._exit_counts[model_id] != exit_count:
            lost = self._lost_steps.get(model_id)
            raise StepsLost(lost) if lost else EngineDied(self._exit_reasons[model_id])

    def _recover(self, death: EngineExit) -> None:
        """Fails what waits for the models that were lost, and restores those that can be
        restored.
        """
        if death.base_model is None:
            self._samplers.forget_all()
        self._number_of_exits += 1
        for row in self._store.models.in_memory():
            if death.base_model in (None, row.base_model):
                self._recover_model(row, death)
        if death.resume:
            death.resume()

    def _recover_model(self, row: ModelRow, death: EngineExit) -> None:
        self._exit_counts[row.model_id] += 1
        plan = self._plan(row.model_id, engine_restarts=death.resume is not None)
        text = self._exit_reasons[row.model_id] = f"{death.reason}; {plan.message}"
        lost = LostSteps(self._number_of_exits, text)
        some_wait = self._futures.fail_waiting(row.model_id, StepsLost(lost))
        if not plan.survives:
            self._give_up(row.model_id, text)
            return
        if some_wait or plan.steps_lost:
            self._lost_steps[row.model_id] = lost
        restore = partial(self._restore, row, plan, text, self._exit_counts[row.model_id])
        # requests that arrive in the meantime wait in the model's lane until this is done
        self._lanes.put(row.model_id, None, Job(None, restore))

    def _plan(self, model_id: str, *, engine_restarts: bool) -> RecoveryPlan:
        states = self._saved_states.get(model_id)
        if states is None:
            message = f"model {model_id!r} was not created yet: create a new model"
            return RecoveryPlan(message, survives=False)
        return states.plan_recovery(model_id, self._still_exists, engine_restarts=engine_restarts)

    def _still_exists(self, state: SavedState) -> bool:
        row = self._store.checkpoints.get(state.path)
        return row is not None and row.created_at == state.saved_at

    async def _restore(self, row: ModelRow, plan: RecoveryPlan, text: str, exit_count: int) -> None:
        # if the engine died again, the next job does it
        if exit_count != self._exit_counts[row.model_id]:
            return
        try:
            await self._create_again(row, plan.state)
        except EngineDied:
            return
        except Exception as error:  # noqa: BLE001  whatever it is, clients of the model are told
            text = f"{text}; but it could not be restored: {error}"
            self._give_up(row.model_id, text)
            self._futures.fail_waiting(row.model_id, EngineDied(text))
        else:
            if plan.state:
                self._saved_states[row.model_id].add(plan.state)

    async def _create_again(self, row: ModelRow, state: SavedState | None) -> None:
        if state is None:
            await self._lanes.call(
                self._engine.create_model, row.model_id, row.base_model, row.lora, row.optimizer
            )
            return
        saved = self._store.checkpoints.get(state.path)
        if saved is None:
            raise InvalidRequest(f"{state.path} was deleted")
        with self._folders.hold(saved.folder) as folder:
            await self._lanes.call(
                create_and_load, self._engine, row, folder, optimizer=state.optimizer
            )

    def _give_up(self, model_id: str, text: str) -> None:
        self._store.models.mark_failed(model_id, text)
        self.forget(model_id)
