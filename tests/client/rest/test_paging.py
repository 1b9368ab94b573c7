"""Lists that page by themselves, over sockets: large ones, and those of servers that page
otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import orjson
import pytest

from tests.support.answering_server import Answer, Call, answering, as_json
from tests.support.facades import everything
from tinkex import InvalidInputError, SessionSearchRequest

MANY = 100_000


def checkpoint(index: int) -> dict[str, Any]:
    path = f"tinker://S1:train:0/weights/{index:06}"
    return {
        "checkpoint_id": f"weights/{index:06}",
        "checkpoint_type": "training",
        "time": "2026-01-01T00:00:00Z",
        "tinker_path": path,
    }


def page(call: Call, total: int, longest: int = 1000) -> tuple[int, int, range]:
    limit, offset = min(int(call.query["limit"]), longest), int(call.query["offset"])
    return limit, offset, range(offset, min(offset + limit, total))


def test_a_hundred_thousand_checkpoints_are_listed_in_order(
    connect_rest: Callable[..., Any],
) -> None:
    def answer(call: Call) -> Answer:
        limit, offset, indices = page(call, MANY)
        cursor = {"limit": limit, "offset": offset, "total_count": MANY}
        return Answer(
            200,
            orjson.dumps(
                {"checkpoints": [checkpoint(index) for index in indices], "cursor": cursor}
            ),
        )

    with answering(answer) as server:
        listed = everything(connect_rest(server.base_url).iter_user_checkpoints(page_size=1000))
    assert [checkpoint.tinker_path[-6:] for checkpoint in listed] == [
        f"{index:06}" for index in range(MANY)
    ]
    assert len(server.calls) == MANY / 1000


@pytest.mark.parametrize("total", [0, 7, 8])
def test_a_server_that_tells_no_total_is_read_to_an_empty_page(
    connect_rest: Callable[..., Any], total: int
) -> None:
    def answer(call: Call) -> Answer:
        return as_json({"sessions": [f"S{index}" for index in page(call, total, longest=4)[2]]})

    with answering(answer) as server:
        assert everything(connect_rest(server.base_url).iter_sessions(page_size=6)) == [
            f"S{index}" for index in range(total)
        ]


@pytest.mark.parametrize("cursor", [None, {"limit": 6, "offset": 0, "total_count": 50}])
def test_iteration_ends_on_a_server_that_ignores_offsets(
    connect_rest: Callable[..., Any], cursor: Any
) -> None:
    with answering(
        lambda call: as_json(
            {"checkpoints": [checkpoint(index) for index in range(8)], "cursor": cursor}
        )
    ) as server:
        assert (
            len(everything(connect_rest(server.base_url).iter_user_checkpoints(page_size=6))) == 8
        )


def test_items_created_meanwhile_cause_no_duplicates(connect_rest: Callable[..., Any]) -> None:
    runs = list(range(10, 0, -1))

    def answer(call: Call) -> Answer:
        indices = page(call, len(runs))[2]
        given = as_json(
            {
                "training_runs": [
                    {"training_run_id": f"R{runs[index]}", "base_model": "b"} for index in indices
                ]
            }
        )
        runs.insert(0, len(runs) + 1)
        return given

    with answering(answer) as server:
        found = [
            run.training_run_id
            for run in everything(connect_rest(server.base_url).iter_training_runs(page_size=4))
        ]
    assert found == [f"R{number}" for number in range(10, 0, -1)]


def searched(call: Call, found: Sequence[str]) -> Answer:
    """Two at a time, from where the cursor says."""
    cursor = json.loads(call.body).get("cursor")
    begin = found.index(cursor["last_session_id"]) + 1 if cursor else 0
    sessions = [
        {"session_id": name, "created_at": "2026-01-01T00:00:00.123456789Z"}
        for name in found[begin : begin + 2]
    ]
    last = {
        "last_created_at": sessions[-1]["created_at"],
        "last_session_id": sessions[-1]["session_id"],
    }
    return as_json({"sessions": sessions, "next_cursor": last if begin + 2 < len(found) else None})


def test_a_search_goes_on_where_the_page_before_ended(connect_rest: Callable[..., Any]) -> None:
    with answering(lambda call: searched(call, ["S5", "S4", "S3", "S2", "S1"])) as server:
        found = everything(
            connect_rest(server.base_url).iter_search_sessions(SessionSearchRequest(limit=2))
        )
        assert [session.session_id for session in found] == ["S5", "S4", "S3", "S2", "S1"]
    cursor = {"last_created_at": "2026-01-01T00:00:00.123456789Z", "last_session_id": "S4"}
    assert server.calls[1].json["cursor"] == cursor, "as it came, to the last digit"


def test_a_search_whose_cursor_stands_still_ends(connect_rest: Callable[..., Any]) -> None:
    stuck = {"last_created_at": "2026", "last_session_id": "S1"}
    body = {"sessions": [{"session_id": "S1", "created_at": "2026-01-01"}], "next_cursor": stuck}
    with answering(lambda call: as_json(body)) as server:
        assert (
            len(
                everything(
                    connect_rest(server.base_url).iter_search_sessions(SessionSearchRequest())
                )
            )
            == 2
        )


def test_pages_are_fetched_as_they_are_asked_for(connect_rest: Callable[..., Any]) -> None:
    def answer(call: Call) -> Answer:
        return as_json({"sessions": [f"S{index}" for index in page(call, 100)[2]]})

    with answering(answer) as server:
        rest = connect_rest(server.base_url)
        if not hasattr(sessions := rest.iter_sessions(page_size=3), "__anext__"):
            with closing(sessions):
                assert [next(sessions) for _ in range(4)] == ["S0", "S1", "S2", "S3"]
            assert len(server.calls) == 2
        with pytest.raises(InvalidInputError, match="page_size"):
            rest.iter_sessions(page_size=0)
