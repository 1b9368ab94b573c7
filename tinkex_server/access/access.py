"""`Access`: what one caller may see. What is another's is answered as if it were not there."""

from __future__ import annotations

from attrs import frozen

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.errors import bad_request, not_found
from tinkex_server.store import CheckpointRow, ModelRow, SamplerRow, SessionRow, Store


@frozen
class Access:
    """Lookups for the holder of one key, which is `owner`; None sees all, where no key is asked
    for. They raise `Refused`.
    """

    store: Store
    owner: str | None

    @property
    def new_owner(self) -> str:
        """Whose what the caller makes is."""
        return self.owner or ""

    def sees(self, owner: str) -> bool:
        return self.owner is None or owner == self.owner

    def session(self, session_id: str) -> SessionRow:
        row = self.store.sessions.get(session_id)
        if row is None or not self.sees(row.owner):
            raise not_found(f"unknown session {session_id!r}")
        return row

    def open_session(self, session_id: str) -> SessionRow:
        """One that was not finished."""
        row = self.session(session_id)
        if row.finished_at is not None:
            raise bad_request(f"{row.ending}; create a new one")
        return row

    def run(self, model_id: str, *, published: bool = False) -> ModelRow:
        """A training run, loaded or not; `published`: another's, too, when it has published
        checkpoints.
        """
        row = self.store.models.get(model_id)
        if row is None or not (
            self.sees(row.owner) or (published and self.store.models.has_published(model_id))
        ):
            raise not_found(f"unknown model {model_id!r}")
        return row

    def model(self, model_id: str) -> ModelRow:
        """A model that takes requests."""
        return self.taking_requests(self.run(model_id))

    def taking_requests(self, row: ModelRow) -> ModelRow:
        """The same model; raises when it takes none."""
        model_id = row.model_id
        if row.state == "unloaded":
            raise not_found(f"model {model_id!r} was unloaded")
        if row.state == "lost":
            raise not_found(
                f"model {model_id!r} was lost when the server was restarted; load what it saved "
                "last into a new one"
            )
        if row.state == "failed":
            raise not_found(row.failure or f"model {model_id!r} could not be created")
        return row

    def own_checkpoint(self, path: CheckpointPath) -> CheckpointRow:
        """One that the caller may change."""
        return self._checkpoint(path, public=False)

    def checkpoint(self, path: CheckpointPath) -> CheckpointRow:
        """One that the caller may read: its own, or a published one."""
        return self._checkpoint(path, public=True)

    def _checkpoint(self, path: CheckpointPath, *, public: bool) -> CheckpointRow:
        row = self.store.checkpoints.get(path)
        if row is None or not (self.sees(row.owner) or (public and row.public)):
            raise not_found(f"there is no checkpoint {path}")
        return row

    def run_of(self, checkpoint: CheckpointRow) -> ModelRow:
        """The run of a checkpoint that the caller may read."""
        row = self.store.models.get(checkpoint.path.run_id)
        if row is None:
            raise not_found(f"unknown model {checkpoint.path.run_id!r}")
        return row

    def sampler(self, sampler_id: str) -> SamplerRow:
        row = self.store.samplers.get(sampler_id)
        if row is None or not self.sees(row.owner):
            raise not_found(f"unknown sampling session {sampler_id!r}")
        return row
