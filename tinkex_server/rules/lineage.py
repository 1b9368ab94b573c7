"""The runs before and after a run: noted when a checkpoint is loaded, and told to one caller.

A run continues another one if it loads a checkpoint of it before its first step. What belongs to
somebody else, or is not in the store any more, is named by the path that was loaded, and no more is
told of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from tinkex_server.access.ownership import Access
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.rules.records import recording
from tinkex_server.store import CheckpointRow, ModelRow, OriginRow, RunPart, Store

_MOST_ANCESTORS = 200


@frozen
class Origin:
    """A checkpoint of another run that a run has loaded."""

    path: CheckpointPath
    after_step: int
    """The steps that the run had taken before; 0 if it continues the other run."""
    run: ModelRow | None
    """The other run; None if the caller may not see it, or if it is not in the store any more."""
    step: int | None
    """The steps of the other run that are in the checkpoint; None if the caller may not see the
    run, or if nobody knows.
    """


def note_origin(store: Store, model_id: str, loaded: CheckpointRow) -> None:
    """Notes that a run has loaded a checkpoint, unless that is one of its own."""
    if loaded.path.run_id != model_id:
        after_step = store.steps.count_ended(model_id)
        with recording(f"the load of {loaded.path} into {model_id}"):
            store.origins.put(OriginRow(model_id, after_step, loaded.path, loaded.step))


def origins(access: Access, run: ModelRow, most: int) -> Sequence[Origin]:
    """Returns what a run has loaded, in order: the last `most`, and in any case the first if the
    run continues another one by it. Of a run of somebody else it returns nothing.
    """
    if not access.sees(run.owner):
        return []
    return [_origin(access, row) for row in access.store.origins.of_run(run.model_id, most)]


def continuing(access: Access, run: ModelRow, most: int) -> Sequence[ModelRow]:
    """Returns the caller's runs that continue a run of the caller, the newest `most` of them, the
    newest first.
    """
    if not access.sees(run.owner):
        return []
    return access.store.origins.continuing(run.model_id, access.owner, most)


def parts(access: Access, run: ModelRow) -> Sequence[RunPart]:
    """Returns the runs that make one training: the run itself, with all its steps, and before it
    those that it continues, up to the steps that were loaded.
    """
    earlier: list[Origin] = []
    seen, oldest = {run.model_id}, run
    while len(earlier) < _MOST_ANCESTORS:
        row = access.store.origins.first(oldest.model_id)
        origin = row and _origin(access, row)
        if not origin or origin.run is None or origin.step is None or origin.path.run_id in seen:
            break
        earlier.append(origin)
        oldest = origin.run
        seen.add(oldest.model_id)
    before, found = 0, list[RunPart]()
    for origin in reversed(earlier):
        found.append(RunPart(origin.path.run_id, origin.step or 0, before))
        before = found[-1].last
    return [*found, RunPart(run.model_id, access.store.steps.count(run.model_id), before)]


def _origin(access: Access, row: OriginRow) -> Origin:
    run = access.store.models.get(row.source.run_id)
    if run is None or not access.sees(run.owner):
        return Origin(row.source, row.after_step, None, None)
    return Origin(row.source, row.after_step, run, row.step)
