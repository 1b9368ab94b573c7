"""`EngineRecovery`: what the server does when its engine dies. Models come back from their last saved
state, and clients learn what was lost.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir import digests
from tinkex_server.data_dir.folders import Folders
from tinkex_server.engine.interface import Engine, EngineDied, EngineExit, InvalidRequest
from tinkex_server.jobs.futures import Futures, Lost, Work
from tinkex_server.jobs.lanes import Job, Lanes
from tinkex_server.jobs.saved_states import Fate, Loss, Progress, SavedState
from tinkex_server.store import ModelRow, Store

_TRAINING = frozenset({"forward_backward", "optim_step"})


class EngineRecovery:
    """Knows what each model in memory can go back to. To be used on the event loop's thread."""

    def __init__(
        self, engine: Engine, store: Store, lanes: Lanes, futures: Futures, folders: Folders
    ) -> None:
        self._engine = engine
        self._store = store
        self._lanes = lanes
        self._futures = futures
        self._folders = folders
        self._progress: dict[str, Progress] = {}
        self._deaths = 0
        # what the last death meant for each model
        self._last_words: defaultdict[str, str] = defaultdict(str)
        self._losses: dict[str, Loss] = {}  # the last one of each model

    def made(self, model_id: str) -> None:
        """There is a new model."""
        self._progress[model_id] = Progress()

    def reached(
        self, model_id: str, path: CheckpointPath, *, optimizer: bool, seq_id: int | None = None
    ) -> None:
        """The model was saved to `path`, or loaded from it."""
        progress, saved = self._progress.get(model_id), self._store.checkpoints.get(path)
        if progress and saved:
            progress.reach(SavedState(path, saved.created_at, optimizer, seq_id))

    def forget(self, model_id: str) -> None:
        """The model is to be unloaded."""
        self._progress.pop(model_id, None)
        self._losses.pop(model_id, None)

    def guarded(self, model_id: str, kind: str, work: Work, came_at: float) -> Work:
        """The work of a model's request that came then. It raises what was lost when the engine
        dies, or its sender cannot know of it.
        """
        known = self._losses.get(model_id)
        unknown = known if known and known.was_unknown(came_at) else None

        async def run() -> bytes:
            if unknown:
                raise Lost(unknown)
            deaths = self._deaths
            outcome = await _settled(work)
            if self._deaths != deaths:  # whatever came of it: the model is not the same
                raise self._error(model_id)
            if isinstance(outcome, Exception):
                raise outcome
            if kind in _TRAINING and (progress := self._progress.get(model_id)):
                progress.trained = True
            return outcome

        return run

    def outlive(self, death: EngineExit) -> None:
        """Fails what waits for the models in memory, and brings back those that can be."""
        self._deaths += 1
        self._last_words = defaultdict(lambda: death.reason)
        for row in self._store.models.in_memory():
            self._see_to(row, death)
        if death.resume:
            death.resume()

    def _see_to(self, row: ModelRow, death: EngineExit) -> None:
        fate = self._fate(row.model_id, engine_lives=death.resume is not None)
        text = self._last_words[row.model_id] = f"{death.reason}; {fate.words}"
        loss = Loss(self._deaths, text)
        some_wait = self._futures.fail_waiting(row.model_id, Lost(loss))
        if not fate.survives:
            self._lose(row.model_id, text)
            return
        if some_wait or fate.steps_lost:
            self._losses[row.model_id] = loss
        self._lanes.put(
            row.model_id, None, Job(None, partial(self._bring_back, row, fate, text, self._deaths))
        )

    def _error(self, model_id: str) -> EngineDied:
        loss = self._losses.get(model_id)
        return Lost(loss) if loss else EngineDied(self._last_words[model_id])

    def _fate(self, model_id: str, *, engine_lives: bool) -> Fate:
        progress = self._progress.get(model_id)
        if progress is None:
            return Fate(f"model {model_id!r} was not made yet: create another", survives=False)
        return progress.fate(model_id, self._is_there, engine_lives=engine_lives)

    def _is_there(self, state: SavedState) -> bool:
        row = self._store.checkpoints.get(state.path)
        return row is not None and row.created_at == state.saved_at

    async def _bring_back(self, row: ModelRow, fate: Fate, text: str, death: int) -> None:
        """What came for the model in the meantime waits in its lane for this."""
        if death != self._deaths:  # it is for the next one to do
            return
        try:
            await self._remake(row, fate.state)
        except EngineDied:
            return
        except Exception as error:  # noqa: BLE001  whatever it is, it is told to those who ask for the model
            text = f"{text}; but it could not be brought back: {error}"
            self._lose(row.model_id, text)
            self._futures.fail_waiting(row.model_id, EngineDied(text))
        else:
            self._progress[row.model_id].came_back(fate)

    async def _remake(self, row: ModelRow, state: SavedState | None) -> None:
        await self._lanes.call(
            self._engine.create_model, row.model_id, row.base_model, row.lora, row.optimizer
        )
        if state is None:
            return
        saved = self._store.checkpoints.get(state.path)
        if saved is None:
            raise InvalidRequest(f"{state.path} was deleted")
        with self._folders.held(saved.folder) as folder:
            await self._lanes.call(digests.check, folder)
            await self._lanes.call(
                self._engine.load_model, row.model_id, folder, optimizer=state.optimizer
            )

    def _lose(self, model_id: str, text: str) -> None:
        self._store.models.lose(model_id, text)
        self.forget(model_id)


async def _settled(work: Work) -> bytes | Exception:
    try:
        return await work()
    except Exception as error:  # noqa: BLE001  looked at by the caller
        return error
