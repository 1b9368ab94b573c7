"""The runs before and after a run, as its page names them.

Steps are counted from the first one of the training, of which the run may be the last part.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen

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
    names, before = _Names(state, run), parts[-1].before
    loads = lineage.origins(access, run, _MOST_LOADS)
    newest = lineage.continuing(access, run, _MOST_CONTINUING)
    total = state.store.origins.count_continuing(run.model_id, access.owner)
    return Origins(
        [_shown(access, names, origin, before) for origin in loads],
        [names.of(other.model_id) for other in newest],
        total - len(newest),
        [Earlier(part.last, names.of(part.model_id).title) for part in parts[:-1] if part.steps],
        before,
    )


def first_origin(state: CommonState, access: Access, run: ModelRow) -> Subject | None:
    """Returns the run that a run continues, if any."""
    loads = lineage.origins(access, run, 1)
    return _Names(state, run).of_source(loads[0]) if loads and not loads[0].after_step else None


def _shown(access: Access, names: _Names, origin: lineage.Origin, before: int) -> ShownOrigin:
    step = origin.step
    if step is not None and origin.run:
        step += lineage.parts(access, origin.run)[-1].before
    after_step = before + origin.after_step if origin.after_step else 0
    return ShownOrigin(names.of_source(origin), origin.path.name, step, after_step)


@frozen
class _Names:
    """The names of other runs beside a run. One of the same name is told from it by its id."""

    state: CommonState
    beside: ModelRow

    def of(self, model_id: str) -> Subject:
        subject = subject_of(self.state, model_id)
        if subject.title != subject_of(self.state, self.beside.model_id).title:
            return subject
        return evolve(subject, title=f"{subject.title} ({model_id})")

    def of_source(self, origin: lineage.Origin) -> Subject:
        run_id = origin.path.run_id
        return self.of(run_id) if origin.run else Subject(run_id)
