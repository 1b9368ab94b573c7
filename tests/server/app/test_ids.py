"""The ids that a server assigns."""

from __future__ import annotations

from tinkex_server.ids import Ids


def test_request_ids_differ_and_begin_with_the_time() -> None:
    made = [Ids().new_request() for _ in range(1000)]
    times = [request_id[:12] for request_id in made]
    assert len(set(made)) == 1000
    assert times == sorted(times)
