"""`BridgeState`: what the bridge works with for the holder of one key."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from weakref import WeakValueDictionary

from attrs import field, frozen

from tinkex.bridge import checkpoint_files
from tinkex.bridge.checkpoint_files import UpstreamPath
from tinkex.bridge.fetched_files import FetchedFiles
from tinkex.bridge.journal import Journal, UpstreamSampler, current_request
from tinkex.bridge.routing import Routing
from tinkex.bridge.upstream import Upstream, Upstreams
from tinkex.sampling.client import AsyncSamplingClient
from tinkex.session.lifecycle import Outcome
from tinkex.session.session import Session
from tinkex.training.client import AsyncTrainingClient
from tinkex_server import checkpoint_path
from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir.reconcile import reconcile
from tinkex_server.engine.interface import ModelInfo
from tinkex_server.errors import Reason, Refused, not_found
from tinkex_server.ids import Ids
from tinkex_server.jobs.lanes import Lanes
from tinkex_server.jobs.requests import Work, WorkFailed
from tinkex_server.jobs.seq_ids import SeqIds
from tinkex_server.limits import Limits
from tinkex_server.state import CommonState, ModelRequest, common_parts
from tinkex_server.store import CheckpointRow, ModelRow, SamplerRow, SessionRow, Store

logger = logging.getLogger("tinkex.bridge")

_OUTCOMES: Mapping[str, Outcome] = {"success": "success", "errored": "errored"}
"""The outcome of a session on a server, by the reason for which the bridge's has ended."""
HOLD = 20.0
"""The seconds for which a poll is held: less than the 45 after which the official client gives up.
"""
LIMITS = Limits(
    body_bytes=512 << 20,
    datums=1 << 20,
    tokens=1 << 30,
    rank=1 << 20,
    models=1 << 20,
    num_samples=1 << 20,
    pending=50_000,
)
"""The bounds of what the bridge takes on. What a server takes, that server decides."""


@frozen
class OpenSampler:
    """A sampling session on a server behind the bridge."""

    client: AsyncSamplingClient
    url: str
    """The URL of the server."""


@frozen(kw_only=True, eq=False)
class BridgeState(CommonState):
    """The record of the requests of one key, and the clients by which they are done."""

    upstreams: Upstreams
    journal: Journal
    models: dict[str, AsyncTrainingClient] = field(factory=dict[str, AsyncTrainingClient])
    """The clients of the models in training, by the bridge's id of the model."""
    samplers: dict[str, OpenSampler] = field(factory=dict[str, OpenSampler])
    """The sampling sessions that are open on the servers, by the bridge's id."""
    uploads: dict[str, Upstream] = field(factory=dict[str, Upstream])
    """The server of each upload that was started, by its id."""
    fetched: FetchedFiles
    resumed: asyncio.Event = field(factory=asyncio.Event)
    """Set when it is decided what goes on of what an earlier process began."""
    _ending: set[asyncio.Task[None]] = field(factory=set[asyncio.Task[None]])
    _turnstiles: WeakValueDictionary[str, asyncio.Lock] = field(
        factory=lambda: WeakValueDictionary[str, asyncio.Lock]()
    )

    # ---- what the routes of the embedded server ask of a state ----

    def base_model(self, name: str) -> ModelInfo:
        """Returns a model of this name. The server behind the bridge decides which exist."""
        return ModelInfo(name, max_context_length=0, vocab_size=0, arch="", tokenizer_id=name)

    def checked(self, request: ModelRequest, work: Work) -> Work:
        async def run() -> bytes:
            if not self.resumed.is_set():
                await self.resumed.wait()
            current_request.set((request.model_id, request.seq_id))
            return await work()

        return run

    def note_created(
        self, model_id: str, source: CheckpointPath | None, *, optimizer: bool
    ) -> None:
        """Does nothing: the server behind the bridge has the model."""

    def retire(self, model_id: str) -> None:
        """Does nothing: requests under way still need the model's client."""

    async def free_model(self, model_id: str) -> None:
        client, row = self.models.pop(model_id, None), self.store.models.get(model_id)
        self.journal.drop_model(model_id)
        if client is None or row is None or self.session(row.session_id).finished_at is not None:
            return  # the end of the session frees the model on the server
        if not self.upstream_of(client).dialect.lacks("unload_model"):
            await client.unload_model()

    def note_ended(self, session_id: str, reason: str, detail: str | None) -> None:
        """Ends the sessions on the servers that belong to this one, beside other requests."""
        self.journal.drop_session(session_id)
        outcome = _OUTCOMES.get(reason, "interrupted")
        task = asyncio.get_running_loop().create_task(
            self.upstreams.end_session(session_id, outcome, detail)
        )
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def drop_expired(self, now: float) -> None:
        await asyncio.to_thread(self.fetched.drop, now)

    def free_sampler(self, sampler: SamplerRow) -> None:
        self.samplers.pop(sampler.sampler_id, None)

    # ---- what the routes of the bridge ask ----

    async def model(self, model_id: str) -> AsyncTrainingClient:
        """Returns the client of a model, once it is there. Raises `WorkFailed` for one that is
        lost.
        """
        async with self.turnstile(model_id):
            return self.model_there(model_id)

    def turnstile(self, model_id: str) -> asyncio.Lock:
        """Returns a lock that requests of a model pass in their order. Who holds it may put another
        model in the place of this one.
        """
        return self._turnstiles.setdefault(model_id, asyncio.Lock())

    def model_there(self, model_id: str) -> AsyncTrainingClient:
        """Returns the client of a model at once, to the holder of its turnstile. Raises
        `WorkFailed` for one that is lost.
        """
        if model_id not in self.models:
            reason = self.store.models.failure(model_id) or f"model {model_id!r} was unloaded"
            raise WorkFailed(reason, "server")
        return self.models[model_id]

    def keep_model(
        self, model_id: str, url: str, session: Session, client: AsyncTrainingClient
    ) -> None:
        """Keeps the client of a new model, which was made on a server."""
        self.journal.add_model(model_id, url, session.session_id, client.model_id)
        self.models[model_id] = client

    def lose_model(self, row: ModelRow, reason: str) -> None:
        """Gives a model up. Later requests of it fail for this reason."""
        self.models.pop(row.model_id, None)
        self.store.models.mark_failed(row.model_id, reason)
        self.journal.drop_model(row.model_id)

    def keep_ephemeral(self, sampler_id: str, model: ModelRow, opened: OpenSampler) -> None:
        """Keeps the sampling session of weights that were saved for it."""
        entry = self.journal.model(model.model_id)
        if entry is not None:
            self.journal.add_sampler(
                UpstreamSampler(
                    sampler_id,
                    opened.url,
                    entry.upstream_session,
                    opened.client.sampling_session_id,
                )
            )
        self.samplers[sampler_id] = opened

    def upstream_of(self, client: AsyncTrainingClient) -> Upstream:
        """Returns the server of a model."""
        return self.upstreams.for_model(client.base_model)

    def session(self, session_id: str) -> SessionRow:
        """Returns a session of the bridge. Raises `Refused`."""
        row = self.store.sessions.get(session_id)
        if row is None:
            raise not_found(f"unknown session {session_id!r}")
        return row

    def checkpoint(self, access: Access, path: str) -> tuple[UpstreamPath, CheckpointRow | None]:
        """Returns where a checkpoint is, and the bridge's row of it; None if the bridge did not
        save it: then the path is taken for one of the default server.
        """
        row = self._saved(access, path)
        if row is None:
            return UpstreamPath(self.upstreams.routing.default.url, path), None
        return checkpoint_files.read(self.folders.path(row.folder)), row

    def _saved(self, access: Access, path: str) -> CheckpointRow | None:
        try:
            return access.checkpoint(checkpoint_path.parse(path))
        except Refused:
            return None

    def server_of(self, saved: UpstreamPath) -> Upstream:
        """Returns the server that has a checkpoint. Raises `Refused` if the bridge was started
        without it.
        """
        upstream = self.upstreams.at_url(saved.url)
        if upstream is None:
            raise Refused(
                Reason.BAD_REQUEST,
                f"{saved.path} was saved on {saved.url}, and this bridge was started without that "
                "server: start it with --upstream or --route for it",
            )
        return upstream

    def run_of(self, row: CheckpointRow) -> ModelRow:
        """Returns the training run of a checkpoint. Raises `Refused`."""
        run = self.store.models.get(row.path.run_id)
        if run is None:
            raise not_found(f"unknown model {row.path.run_id!r}")
        return run

    async def close(self) -> None:
        """Ends the sessions on the servers, and closes connections and database."""
        with closing(self.store), closing(self.journal):
            self.futures.stop()
            await self.lanes.close()
            await asyncio.gather(*self._ending, return_exceptions=True)
            await self.upstreams.close()
            if self.resumed.is_set():
                self.journal.clear()


def open_state(data_dir: Path, routing: Routing, key: str | None) -> BridgeState:
    """Returns the state of one key, which is kept in a folder."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    started_at = time.time()
    store, journal = Store(data_dir / "tinkex.db"), Journal(data_dir / "journal.db")
    ready: Future[str] = Future()
    ready.set_result("a server behind the bridge")
    state = BridgeState(
        **common_parts(
            store,
            data_dir,
            hold=HOLD,
            ids=Ids(),
            seq_ids=SeqIds(),
            limits=LIMITS,
            exchange_keys=False,
            ready=ready,
            lanes=Lanes(overlapping=True),
            started_at=started_at,
        ),
        upstreams=Upstreams(routing, key, journal),
        journal=journal,
        fetched=FetchedFiles(data_dir / "fetched"),
    )
    reconcile(store, state.folders)
    state.fetched.clear()
    return state
