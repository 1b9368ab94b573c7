"""`Output`: the forms of data, and how values are shown in each."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tinkex.cli.output import Mode, Output, Size, human
from tinkex.cli.table import cut_to_width

FIELDS = ("id", "size_bytes", "time", "score", "public", "tags", "note")
ROW = {
    "id": "a",
    "size_bytes": Size(1_234_567),
    "time": datetime(2026, 11, 1, 12, 30, tzinfo=UTC),
    "score": float("nan"),
    "public": True,
    "tags": ["x", "y"],
    "note": "two\twords\nand a line",
}


def written(mode: Mode, call: str, *args: Any, **settings: Any) -> str:
    out = io.StringIO()
    getattr(Output(mode, FIELDS, out=out, err=io.StringIO(), **settings), call)(*args)
    return out.getvalue()


def test_a_plain_row_is_one_line_with_tabs() -> None:
    assert written("plain", "table", [ROW]) == (
        'a\t1234567\t2026-11-01T12:30:00Z\t\ttrue\t["x", "y"]\ttwo words and a line\n'
    )


def test_json_has_no_nan_and_keeps_types() -> None:
    [row] = json.loads(written("json", "table", [ROW]), parse_constant=pytest.fail)
    assert row == {
        "id": "a",
        "size_bytes": 1234567,
        "time": "2026-11-01T12:30:00Z",
        "score": None,
        "public": True,
        "tags": ["x", "y"],
        "note": "two\twords\nand a line",
    }


def test_json_has_the_chosen_fields_in_the_chosen_order() -> None:
    assert (
        written("json", "record", ROW, chosen=("public", "id")) == '{"public": true, "id": "a"}\n'
    )


def test_an_empty_list_is_an_empty_array() -> None:
    assert written("json", "table", []) == "[]\n"
    assert written("plain", "table", []) == written("human", "table", []) == ""


def test_events_are_lines() -> None:
    assert written("json", "event", {"id": "a"}) == '{"id": "a"}\n'
    assert written("plain", "event", {"id": "a", "score": 0.5}) == "id=a score=0.5\n"
    assert written("quiet", "event", {"id": "a", "score": 0.5}) == "a\n"


def test_a_row_with_other_fields_is_a_mistake_of_the_command() -> None:
    with pytest.raises(TypeError, match="declared are"):
        written("plain", "table", [{"id": "a"}])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Size(0), "0 B"),
        (Size(999), "999 B"),
        (Size(1000), "1.0 kB"),
        (Size(999_960), "1.0 MB"),
        (Size(1_500_000_000), "1.5 GB"),
        (Size(7 * 10**15), "7000.0 TB"),
        (None, "-"),
        ("", "-"),
        (False, "no"),
        ({"a": 1}, "a=1"),
        ([], "-"),
    ],
)
def test_a_person_reads(value: object, text: str) -> None:
    assert human(value) == text


def test_status_lines_go_to_stderr_and_quiet_silences_all_but_warnings() -> None:
    for mode, expected in (
        ("plain", "done\nwarning: odd\nhint: tinkex\n"),
        ("quiet", "warning: odd\n"),
    ):
        out, err = io.StringIO(), io.StringIO()
        output = Output(mode, FIELDS, out=out, err=err)  # type: ignore[arg-type]
        output.status("done")
        output.warn("odd")
        output.hint("tinkex")
        assert (out.getvalue(), err.getvalue()) == ("", expected)


def test_a_stream_that_cannot_encode_a_sign_still_gets_the_row() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, "ascii")
    Output("plain", ("id",), out=out, err=io.StringIO()).table([{"id": "…a"}])
    assert raw.getvalue() == b"?a\n"


def test_the_widest_column_is_cut_first_and_the_ids_last() -> None:
    rows = [["id", "text", "n"], ["0123456789", "x" * 30, "1"]]
    fitted = cut_to_width(rows, 30, keep=0)
    assert fitted.rows[1] == ["0123456789", "x" * 14 + "…", "1"]
    assert fitted.cut == [1]
    narrow = cut_to_width(rows, 18, keep=0)
    assert narrow.rows[1] == ["01234…", "xxxxx…", "1"] or narrow.cut == [0, 1]
    assert sum(map(len, narrow.rows[1])) + 4 <= 18
    assert cut_to_width(rows, None, keep=0).cut == []


def test_wide_characters_count_twice() -> None:
    fitted = cut_to_width([["名" * 10]], 9, keep=None)
    assert fitted.rows == [["名" * 4 + "…"]]
