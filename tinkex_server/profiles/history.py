"""`History`: the earlier requests that a profile's server acts on."""

from __future__ import annotations

from attrs import define, evolve, field

from tinkex_server import checkpoint_path
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.profiles.profile import NUMBERED
from tinkex_server.profiles.templates import Fields, integer_at, text_at


@define(eq=False)
class History:
    """Notes on the requests that were done or refused."""

    first_trained: str | None = None
    """The model that was trained first."""
    baseless_sessions: set[str] = field(factory=set[str])
    """The sampling sessions that were created without a base model."""
    _with_gradient: set[str] = field(factory=set[str])
    _first_saves: dict[str, str] = field(factory=dict[str, str])
    _saved_without_optimizer: set[tuple[str, str]] = field(factory=set[tuple[str, str]])
    _refused_numbers: set[tuple[str, int]] = field(factory=set[tuple[str, int]])
    _first_ids: dict[tuple[str, str, int], str] = field(factory=dict[tuple[str, str, int], str])

    def note_done(self, operation: str, sent: Fields, fields: Fields) -> None:
        """Notes a request of a model that was accepted; `sent` are the fields as they arrived."""
        if operation == "forward_backward":
            self._with_gradient.add(fields["model_id"])
            self.first_trained = self.first_trained or fields["model_id"]
        if operation == "save_weights":
            self._first_saves.setdefault(fields["model_id"], fields["path"])
            save = fields["model_id"], fields["path"]
            if sent.get("include_optimizer"):
                self._saved_without_optimizer.discard(save)
            else:
                self._saved_without_optimizer.add(save)

    def note_refused(self, operation: str, sent: Fields) -> None:
        if operation in NUMBERED and (number := _number(sent)):
            self._refused_numbers.add(number)

    def was_refused(self, operation: str, sent: Fields) -> bool:
        """Returns whether the seq_id belongs to a request that was refused."""
        return operation in NUMBERED and _number(sent) in self._refused_numbers

    def take_gradient(self, model_id: str | None) -> bool:
        """Returns whether the model has gradients of a forward_backward, and forgets them."""
        if model_id is None:
            return False
        had_some = model_id in self._with_gradient
        self._with_gradient.discard(model_id)
        return had_some

    def first_id(self, operation: str, sent: Fields, request_id: str) -> str:
        """Returns the request id of the first request with this model and seq_id. A request without
        a seq_id is no repeat.
        """
        number = _number(sent)
        return (
            self._first_ids.setdefault((operation, *number), request_id) if number else request_id
        )

    def first_save(self, path: CheckpointPath) -> CheckpointPath:
        """Returns the path of what the same model saved first."""
        return evolve(path, name=self._first_saves.get(path.run_id, path.name))

    def has_optimizer(self, text: str) -> bool:
        """Returns whether the save was asked to include the optimizer's state. One of an earlier
        process counts as if it was: real servers have the state in the files.
        """
        path = checkpoint_path.parse(text)
        return (path.run_id, path.name) not in self._saved_without_optimizer


def _number(sent: Fields) -> tuple[str, int] | None:
    """Returns the model and the seq_id of a request, if it has both."""
    model_id, seq_id = text_at(sent, "model_id"), integer_at(sent, "seq_id")
    return None if model_id is None or seq_id is None else (model_id, seq_id)
