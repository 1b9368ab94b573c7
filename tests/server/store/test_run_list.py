"""The runs as the status page lists them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tinkex_server.engine.interface import LoraShape
from tinkex_server.store import Batch, ModelRow, RunSearch, SessionRow, Store

NOW = 1000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "tinkex.db")) as store:
        yield store


def add_run(
    store: Store,
    name: str,
    *,
    state: Any = "ready",
    seen_at: float = NOW,
    losses: tuple[float, ...] = (),
    finish: str | None = None,
    owner: str = "",
    metadata: dict[str, str] | None = None,
    title: str | None = None,
) -> None:
    session = SessionRow(f"s-{name}", ["tag-" + name], {}, "1", None, title, 0.0, owner)
    store.sessions.add(session)
    store.sessions.note_heartbeat(session.session_id, seen_at)
    shape = LoraShape(4)
    store.models.add(
        ModelRow(name, session.session_id, "base", shape, "adamw", metadata or {}, state, 0.0, 0.0)
    )
    for loss in losses:
        store.steps.add_batch(name, Batch(loss=loss, tokens=1), NOW)
        store.steps.end(name)
    if finish:
        store.sessions.finish(session.session_id, finish, None, NOW)


def found(store: Store, **conditions: Any) -> list[str]:
    search = RunSearch(**{"owner": None, "silent_before": NOW - 60, **conditions})
    return [run.model.model_id for run in store.run_list.page(search, 100, 0)]


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"state": "creating"}, "creating"),
        ({}, "ready"),
        ({"seen_at": NOW - 61}, "gone"),
        ({"state": "unloaded", "finish": "success"}, "finished"),
        ({"state": "unloaded", "finish": "errored"}, "errored"),
        ({"state": "unloaded", "finish": "interrupted"}, "interrupted"),
        ({"state": "unloaded", "finish": "cancelled"}, "gone"),
        ({"state": "unloaded"}, "unloaded"),
        ({"state": "lost"}, "lost"),
        ({"state": "failed"}, "failed"),
    ],
)
def test_the_status_says_how_run_and_client_are(
    store: Store, how: dict[str, Any], status: str
) -> None:
    add_run(store, "a", **how)
    run = store.run_list.get("a", NOW - 60)
    assert run
    assert run.status == status
    search = RunSearch(owner=None, silent_before=NOW - 60)
    assert sum(store.run_list.counts(search).values()) == 1


def test_words_are_found_in_names_tags_and_metadata_in_any_case(store: Store) -> None:
    add_run(store, "first", title="Große Mathe")
    add_run(store, "second", metadata={"recipe": "Distill"})
    assert found(store, words=["GROSSE", "mathe"]) == ["first"]
    assert found(store, words=["distill"]) == ["second"]
    assert found(store, words=["tag-first"]) == ["first"]
    assert found(store, words=["s-"]) == []  # the id of the session is not looked at
    assert found(store, words=["100%"]) == []


def test_groups_and_owners_narrow_a_search(store: Store) -> None:
    add_run(store, "mine", owner="1")
    add_run(store, "theirs", owner="2")
    add_run(store, "away", owner="1", seen_at=0.0)
    assert found(store, owner="1") == ["away", "mine"]
    assert found(store, owner="1", group="active") == ["mine"]
    assert found(store, owner="1", group="gone") == ["away"]
    counts = store.run_list.counts(RunSearch(owner="1", silent_before=NOW - 60, group="gone"))
    assert counts == {"active": 1, "gone": 1, "ended": 0, "failed": 0}


def test_every_order_can_be_turned_round_and_runs_without_a_value_are_last(store: Store) -> None:
    add_run(store, "a", losses=(3.0, 1.0), title="zebra")
    add_run(store, "b", losses=(2.0,), title="Ant")
    add_run(store, "c", title="bee")
    assert found(store) == ["c", "b", "a"]
    assert found(store, reverse=True) == ["a", "b", "c"]
    assert found(store, order="name") == ["b", "c", "a"]
    assert found(store, order="steps") == ["a", "b", "c"]
    assert found(store, order="loss") == ["a", "b", "c"]
    assert found(store, order="loss", reverse=True) == ["b", "a", "c"]


def test_a_page_of_a_thousand_runs_has_as_many_as_asked_for(store: Store) -> None:
    for number in range(1000):
        add_run(store, f"run-{number:04}", losses=(1.0, 2.0))
    search = RunSearch(owner=None, silent_before=0.0, words=["run"], order="loss")
    page = store.run_list.page(search, 25, 975)
    assert len(page) == 25
