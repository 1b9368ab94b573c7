"""Where a checkpoint is for the routes of the server. Plain values: no I/O here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attrs import evolve, frozen
from tinkex_api.types import Request

from tinkex.errors import InvalidInputError
from tinkex.types.checkpoint_path import KINDS, split_path

T = TypeVar("T")


@frozen
class CheckpointAddress:
    """The training run of a checkpoint, and the two parts of its id. `kind` is empty where the id
    is a bare name.
    """

    training_run_id: str
    kind: str
    name: str

    @classmethod
    def of_id(
        cls, training_run_id: str, checkpoint_id: str, *, bare: bool = False
    ) -> CheckpointAddress:
        """Reads `<kind>/<name>`, or for a route that takes bare names (`bare`) the name alone.

        Raises `InvalidInputError` for another form.
        """
        kind, slash, name = checkpoint_id.rpartition("/")
        if not (training_run_id and name and (kind or (bare and not slash))):
            raise InvalidInputError(
                f"checkpoint_id {checkpoint_id!r} is not of the form <kind>/<name>",
                advice=(
                    f"The kind is one of {', '.join(KINDS)}; `Checkpoint.tinker_path` has it "
                    "where the list's ids are bare names."
                ),
            )
        return cls(training_run_id, "" if bare else kind, name)

    @classmethod
    def of_path(cls, path: str, *, bare: bool = False) -> CheckpointAddress:
        """Reads `<scheme>://<training run>/<kind>/<name>`, where the kind may be missing for a
        route that takes bare names (`bare`).

        Raises `InvalidInputError` for another form.
        """
        scheme, run_id, kind, name = split_path(path)
        if not (scheme and run_id and name and (kind or bare)):
            raise InvalidInputError(
                f"the path {path!r} is not of the form tinker://<training run>/<kind>/<name>",
                advice=f"The kind is one of {', '.join(KINDS)}.",
            )
        return cls(run_id, "" if bare else kind, name)

    def request(self, make: Callable[[str, str, str], Request[T]]) -> Request[T]:
        """What the generated `make(run_id, kind, name)` builds for this checkpoint."""
        request = make(self.training_run_id, self.kind, self.name)
        return (
            request
            if self.kind
            else _at(request, request.path.replace("/checkpoints//", "/checkpoints/", 1))
        )


def _at(request: Request[T], path: str) -> Request[T]:
    kwargs = {
        "method": request.method,
        "url": path,
        "params": request.params,
        "headers": request.headers,
        "content": request.content,
    }
    return evolve(request, kwargs=kwargs)
