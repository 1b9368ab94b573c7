"""`Access`: what one caller may see. What belongs to somebody else is answered as if it did not
exist.
"""

from __future__ import annotations

from attrs import frozen

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.errors import bad_request, not_found
from tinkex_server.store import CheckpointRow, ModelRow, SamplerRow, SessionRow, Store


@frozen
class Access:
    """The store as one caller may see it. Lookups raise `Refused` for what the caller may not
    see.
    """

    store: Store
    owner: str | None
    """The id of the caller's API key. None stands for a caller who sees everything, as where the
    server asks for no key.
    """

    @property
    def new_owner(self) -> str:
        """The owner of what the caller creates."""
        return self.owner or ""

    def sees(self, owner: str) -> bool:
        """Returns whether the caller may see what belongs to `owner`."""
        return self.owner is None or owner == self.owner

    def session(self, session_id: str) -> SessionRow:
        """Returns a session of the caller."""
        row = self.store.sessions.get(session_id)
        if row is None or not self.sees(row.owner):
            raise not_found(f"unknown session {session_id!r}")
        return row

    def open_session(self, session_id: str) -> SessionRow:
        """Returns a session that has not finished. Raises `Refused` for one that has."""
        row = self.session(session_id)
        if row.finished_at is not None:
            raise bad_request(f"{row.ending}; create a new one")
        return row

    def run(self, model_id: str, *, published: bool = False) -> ModelRow:
        """Returns a training run, in memory or not.

        With `published` it may be a run of somebody else that has published checkpoints.
        """
        row = self.store.models.get(model_id)
        if row is None or not (
            self.sees(row.owner) or (published and self.store.models.has_published(model_id))
        ):
            raise not_found(f"unknown model {model_id!r}")
        return row

    def model(self, model_id: str) -> ModelRow:
        """Returns a model that takes requests."""
        return self.taking_requests(self.run(model_id))

    def taking_requests(self, row: ModelRow) -> ModelRow:
        """Returns the same model. Raises `Refused`, saying why, if it takes no requests."""
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
        """Returns a checkpoint that the caller may change."""
        return self._checkpoint(path, public=False)

    def checkpoint(self, path: CheckpointPath) -> CheckpointRow:
        """Returns a checkpoint that the caller may read: its own, or a published one."""
        return self._checkpoint(path, public=True)

    def _checkpoint(self, path: CheckpointPath, *, public: bool) -> CheckpointRow:
        row = self.store.checkpoints.get(path)
        if row is None or not (self.sees(row.owner) or (public and row.public)):
            raise not_found(f"there is no checkpoint {path}")
        return row

    def run_of(self, checkpoint: CheckpointRow) -> ModelRow:
        """Returns the training run of a checkpoint that the caller may read."""
        row = self.store.models.get(checkpoint.path.run_id)
        if row is None:
            raise not_found(f"unknown model {checkpoint.path.run_id!r}")
        return row

    def sampler(self, sampler_id: str) -> SamplerRow:
        """Returns a sampling session of the caller."""
        row = self.store.samplers.get(sampler_id)
        if row is None or not self.sees(row.owner):
            raise not_found(f"unknown sampling session {sampler_id!r}")
        return row
