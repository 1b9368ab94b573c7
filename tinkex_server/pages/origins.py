"""The runs before and after a run, as its page names them.

Steps are counted from the first one of the training, of which the run may be the last part.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from tinkex_server.access.ownership import Access
from tinkex_server.pages.chart import Earlier
from tinkex_server.pages.names import Subject, subject_of
from tinkex_server.rules import lineage
from tinkex_server.state import CommonState
from tinkex_server.store import ModelRow, RunPart

_MOST_LOADS = 5
_MOST_CONTINUING = 10


@frozen
class ShownOrigin:
    """A checkpoint of another run that the run has loaded."""

    subject: Subject
    """The other run."""
    checkpoint: str
    step: int | None
    """The last step in the checkpoint, if the caller may know."""
    after_step: int
    """The last step before the load; 0 if the run continues the other one."""


@frozen
class Origins:
    """The runs before and after a run."""

    loads: Sequence[ShownOrigin]
    continuing: Sequence[Subject]
    """The newest runs that continue it."""
    more_continuing: int
    """The number of further ones."""
    earlier: Sequence[Earlier]
    """The runs before that have taken steps of the training, in order."""
    before: int
    """The steps that they have taken."""


def origins_of(
    state: CommonState, access: Access, run: ModelRow, parts: Sequence[RunPart]
) -> Origins:
    """Returns the runs before and after a run of the caller. `parts` are those of its training."""
    before = parts[-1].before
    loads = lineage.origins(access, run, _MOST_LOADS)
    newest = lineage.continuing(access, run, _MOST_CONTINUING)
    total = state.store.origins.count_continuing(run.model_id, access.owner)
    return Origins(
        [_shown(state, access, origin, before) for origin in loads],
        [subject_of(state, other.model_id) for other in newest],
        total - len(newest),
        [
            Earlier(part.before + 1, part.last, subject_of(state, part.model_id).title)
            for part in parts[:-1]
            if part.steps
        ],
        before,
    )


def first_origin(state: CommonState, access: Access, run: ModelRow) -> Subject | None:
    """Returns the run that a run continues, if any."""
    [*loads] = lineage.origins(access, run, 1)
    return _subject(state, loads[0]) if loads and not loads[0].after_step else None


def _shown(state: CommonState, access: Access, origin: lineage.Origin, before: int) -> ShownOrigin:
    step = origin.step
    if step is not None and origin.run:
        step += lineage.parts(access, origin.run)[-1].before
    after_step = before + origin.after_step if origin.after_step else 0
    return ShownOrigin(_subject(state, origin), origin.path.name, step, after_step)


def _subject(state: CommonState, origin: lineage.Origin) -> Subject:
    run_id = origin.path.run_id
    return subject_of(state, run_id) if origin.run else Subject(run_id)
