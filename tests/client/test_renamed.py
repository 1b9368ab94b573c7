"""Public names that were changed go on working for one release, and warn in one way."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest

import tinkex
from tinkex.errors import APIConnectionError

WAIT = tinkex.WaitFacts(
    operation="sample", owner="queue", activity="it is full", seconds={"network": 9.0}
)
ERROR = APIConnectionError("no answer came")
ERROR.failure_point = "unsent"


@pytest.mark.parametrize(
    ("old", "new", "read", "value"),
    [
        ("WaitFacts.whose", "owner", lambda: WAIT.whose, "queue"),
        ("WaitFacts.mostly", "main_owner", lambda: WAIT.mostly, "network"),
        ("WaitFacts.what", "activity", lambda: WAIT.what, "it is full"),
        ("APIConnectionError.place", "failure_point", lambda: ERROR.place, "unsent"),
        (
            "tinkex.SamplingWays",
            "tinkex.SamplingRules",
            lambda: tinkex.SamplingWays,
            tinkex.SamplingRules,
        ),
    ],
)
def test_an_old_name_has_the_value_of_the_new_one_and_warns_where_it_is_used(
    old: str, new: str, read: Callable[[], object], value: object
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read() == value
    [warning] = caught
    assert warning.category is DeprecationWarning
    assert str(warning.message) == f"{old} is now {new}; the next release removes the old name"
    assert warning.filename == __file__


def test_an_old_name_that_could_be_set_can_be_set() -> None:
    error = APIConnectionError("no answer came")
    with pytest.warns(DeprecationWarning, match="place is now failure_point") as caught:
        error.place = "connecting"
    assert caught[0].filename == __file__
    assert (error.failure_point, error.sent) == ("connecting", False)


def test_old_names_are_not_offered() -> None:
    assert "SamplingWays" not in dir(tinkex)
