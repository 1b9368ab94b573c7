"""A large JSON text gives the same values in small steps as in one."""

from __future__ import annotations

import random

import orjson
import pytest

from tinkex.wire.large_json import loads

LONG = list(range(2000))
FLOATS = [random.Random(0).normalvariate(-1.0, 0.3) for _ in range(3000)]


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"data": FLOATS, "shape": [3000]}, "b": [LONG, {"c": LONG}], "d": None},
        [LONG, [LONG, FLOATS], "text"],
        LONG,
        {"numbers in a string": orjson.dumps(LONG).decode(), "data": FLOATS},
        {"tinkex array": 0, "data": LONG},
        [{"tinkex array": 0}, LONG],
        [{"tinkex array": 1}, LONG, LONG],
        {"with nulls": [None, 1.5] * 2000},
        {"short": [1, 2, 3]},
        {"short": [[1, 2.5]] * 5000, "long": FLOATS, "after it": [[3, 4.5], None] * 900},
        {"text": "[1,2" * 5000, "long": FLOATS},
        {"text": "x" * 10_000 + "[1]", "long": [True, False, None] * 2000},
        [],
    ],
)
def test_the_values_are_those_of_orjson(value: object) -> None:
    for text in (orjson.dumps(value), orjson.dumps(value, option=orjson.OPT_INDENT_2)):
        assert loads(text) == orjson.loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        orjson.dumps({"a": LONG})[:-1],
        orjson.dumps({"a": LONG})[:-2],
        b"[" + b"1," * 4000 + b"]",
        b'{"a":[' + b"1," * 4000 + b'2 3],"b":1}',
        orjson.dumps(LONG) + orjson.dumps(LONG),
    ],
)
def test_a_text_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(text)


def test_a_name_given_twice_has_its_last_value() -> None:
    first, last = orjson.dumps(LONG), orjson.dumps(FLOATS)
    assert loads(b'{"a":%s,"a":%s}' % (first, last)) == {"a": FLOATS}


def test_long_arrays_are_parsed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": [{"data": FLOATS, "n": index} for index in range(9)], "b": "[" * 9_999}
    text, sizes, parse = orjson.dumps(value), list[int](), orjson.loads

    def noting(part: bytes) -> object:
        sizes.append(len(part))
        return parse(part)

    monkeypatch.setattr(orjson, "loads", noting)
    assert loads(text) == value
    assert len(sizes) == 10
    assert max(sizes) < len(text) / 8
