"""The page of one training run: its metrics, checkpoints and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from attrs import frozen

from tinkex_server.access.ownership import Access
from tinkex_server.errors import not_found
from tinkex_server.pages.chart import Chart, Earlier, draw
from tinkex_server.pages.names import (
    SILENT_SECONDS,
    StatusWords,
    metadata_of,
    metric_title,
    run_url,
    status_words,
    title_of,
)
from tinkex_server.pages.origins import Origins, origins_of
from tinkex_server.pages.paging import Pages, pages
from tinkex_server.rules import lineage
from tinkex_server.state import CommonState
from tinkex_server.store import CheckpointRow, ListedRun, StepRow

_POINTS = 300
_CHECKPOINTS = 20  # on a page
_FIRST = ("loss", "tokens_per_second", "grad_norm", "learning_rate")


@frozen
class Metric:
    """A metric of a run, with its curve."""

    name: str
    title: str
    url: str
    chart: Chart | None
    is_chosen: bool


@frozen
class OneRun:
    """A training run with all that its page shows."""

    run: ListedRun
    title: str
    url: str
    status: StatusWords
    metadata: Mapping[str, str]
    origins: Origins
    metrics: Sequence[Metric]
    checkpoints: Sequence[CheckpointRow]
    pages: Pages
    """The pages of checkpoints."""

    @property
    def chosen(self) -> Metric | None:
        """The metric of the large chart; None before the first step."""
        return next((metric for metric in self.metrics if metric.is_chosen), None)


def one_run(
    state: CommonState, access: Access, model_id: str, query: Mapping[str, str], now: float
) -> OneRun:
    """Returns a run that the caller may see. Raises `Refused` (404) for any other."""
    parts = lineage.parts(access, access.run(model_id))
    run = state.store.run_list.get(model_id, now - SILENT_SECONDS)
    if run is None:
        raise not_found(f"unknown model {model_id!r}")
    asked = {"metric": query["metric"]} if query.get("metric") else {}
    total = state.store.checkpoints.count_of_run(model_id)
    here = pages(query.get("page", ""), _CHECKPOINTS, total, asked)
    pending = sum(r.identity.scope == model_id for r in state.futures.pending(access))
    origins = origins_of(state, access, run.model, parts)
    steps = state.store.steps.fullest(parts, _POINTS)
    return OneRun(
        run,
        title_of(run.model, run.session),
        run_url(model_id),
        status_words(run, pending, now),
        metadata_of(run),
        origins,
        _metrics(steps, origins.earlier, query.get("metric", "loss")),
        state.store.checkpoints.of_run(model_id)[here.offset : here.offset + here.size],
        here,
    )


def _metrics(steps: Sequence[StepRow], earlier: Sequence[Earlier], asked: str) -> Sequence[Metric]:
    """Returns the metrics that occur in these steps, the best known ones first."""
    values = [_values(step) for step in steps]
    names = {name for row in values for name, value in row.items() if value is not None}
    ordered = [
        *(name for name in _FIRST if name in names),
        *sorted(name for name in names if name not in _FIRST),
    ]
    chosen = asked if asked in names else next(iter(ordered), None)
    return [
        Metric(
            name,
            metric_title(name),
            "?" + urlencode({"metric": name}),
            draw(
                [
                    (step.number, row.get(name))
                    for step, row in zip(steps, values, strict=True)
                    if name in row
                ],
                earlier,
            ),
            name == chosen,
        )
        for name in ordered
    ]


def _values(step: StepRow) -> Mapping[str, float | None]:
    rate = {} if step.tokens_per_second is None else {"tokens_per_second": step.tokens_per_second}
    return {**step.losses, **rate, **step.metrics}
