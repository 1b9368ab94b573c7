"""The list of training runs: searched, filtered, sorted, and page by page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast, get_args
from urllib.parse import urlencode

from attrs import frozen

from tinkex_server.access.ownership import Access
from tinkex_server.pages.chart import Chart, draw
from tinkex_server.pages.names import (
    SILENT_SECONDS,
    StatusWords,
    Subject,
    metadata_of,
    run_url,
    status_words,
    title_of,
)
from tinkex_server.pages.origins import first_origin
from tinkex_server.pages.paging import Pages, pages
from tinkex_server.state import CommonState
from tinkex_server.store import RUN_GROUPS, ListedRun, RunOrder, RunSearch

_ON_PAGE = 25
_POINTS = 60  # of the small curve of each run
_MOST_WORDS = 8
_COLUMNS: Mapping[RunOrder, str] = {
    "name": "Run",
    "steps": "Steps",
    "loss": "Loss",
    "active": "Last request",
    "created": "Created",
}
_GROUPS = {
    "": "All",
    "active": "Active",
    "gone": "Client gone",
    "ended": "Ended",
    "failed": "Failed",
}


@frozen
class RunLine:
    """A run in the list."""

    run: ListedRun
    title: str
    url: str
    status: StatusWords
    metadata: Mapping[str, str]
    origin: Subject | None
    """The run that it continues."""
    curve: Chart | None
    checkpoints: int


@frozen
class Group:
    """A filter of the list, with the number of runs that it leaves."""

    label: str
    url: str
    count: int
    is_chosen: bool


@frozen
class Column:
    """A column by which the list can be sorted."""

    label: str
    url: str
    sorted: str
    """The value of `aria-sort`."""


@frozen
class RunPage:
    """A page of the list."""

    lines: Sequence[RunLine]
    groups: Sequence[Group]
    columns: Mapping[str, Column]
    pages: Pages
    query: Mapping[str, str]
    text: str
    """The text that is searched for."""
    is_narrowed: bool
    """Whether runs may be left out."""


def run_page(state: CommonState, access: Access, query: Mapping[str, str], now: float) -> RunPage:
    """Returns the page of runs that the parameters of a URL ask for. Unknown values count as not
    given.
    """
    asked = _known(query)
    text = asked.get("q", "")
    order = cast("RunOrder", asked.get("sort", "created"))
    search = RunSearch(
        owner=access.owner,
        silent_before=now - SILENT_SECONDS,
        words=text.split()[:_MOST_WORDS],
        group=asked.get("show"),
        order=order,
        reverse="reverse" in asked,
    )
    counts = state.store.run_list.counts(search)
    total = counts[search.group] if search.group else sum(counts.values())
    here = pages(query.get("page", ""), _ON_PAGE, total, asked)
    pending = Counter(request.identity.scope for request in state.futures.pending(access))
    found = state.store.run_list.page(search, here.size, here.offset)
    return RunPage(
        lines=[_line(state, access, run, pending[run.model.model_id], now) for run in found],
        groups=_groups(asked, counts),
        columns={name: _column(asked, name, search) for name in _COLUMNS},
        pages=here,
        query=asked,
        text=text,
        is_narrowed=bool(text or search.group),
    )


def _known(query: Mapping[str, str]) -> dict[str, str]:
    """Returns the parameters that mean something, without those that are the default."""
    allowed = {"show": set(RUN_GROUPS), "sort": {*get_args(RunOrder)} - {"created"}}
    asked = {name: query[name] for name in ("show", "sort") if query.get(name) in allowed[name]}
    if text := query.get("q", "").strip()[:200]:
        asked["q"] = text
    if query.get("reverse"):
        asked["reverse"] = "1"
    return asked


def _line(state: CommonState, access: Access, run: ListedRun, pending: int, now: float) -> RunLine:
    steps = state.store.steps.curve(run.model.model_id, _POINTS)
    return RunLine(
        run,
        title_of(run.model, run.session),
        run_url(run.model.model_id),
        status_words(run, pending, now),
        metadata_of(run),
        first_origin(state, access, run.model),
        draw([(step.number, step.loss) for step in steps if step.trained]),
        state.store.checkpoints.count_of_run(run.model.model_id),
    )


def _groups(asked: Mapping[str, str], counts: Mapping[str, int]) -> Sequence[Group]:
    total = sum(counts.values())
    return [
        Group(
            label,
            _url({**asked, "show": name}),
            counts.get(name, 0) if name else total,
            asked.get("show", "") == name,
        )
        for name, label in _GROUPS.items()
    ]


def _column(asked: Mapping[str, str], name: RunOrder, search: RunSearch) -> Column:
    is_chosen = search.order == name
    turned = "1" if is_chosen and not search.reverse else ""
    rises = (name in ("name", "loss")) != search.reverse
    return Column(
        _COLUMNS[name],
        _url({**asked, "sort": "" if name == "created" else name, "reverse": turned}),
        ("ascending" if rises else "descending") if is_chosen else "none",
    )


def _url(query: Mapping[str, str]) -> str:
    return "?" + urlencode({name: value for name, value in query.items() if value})
