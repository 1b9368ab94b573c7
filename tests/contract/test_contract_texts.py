"""The contract's texts are read as docstrings: their openings are checked, and open strings have
their known values in them."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tinkex_api import models

from tests.support.contract import SCHEMAS

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def lint(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    return import_module("lint_contract")


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    return import_module("generate")


def contract(
    summary: str = "Returns a thing",
    answer: str = "The thing.",
    schema: str = "A thing.",
    field: str = "Name of the thing.",
) -> dict[str, Any]:
    operation = {
        "operationId": "get_thing",
        "summary": summary,
        "description": "For every server.",
        "responses": {"200": {"description": answer}},
    }
    properties = {"name": {"description": field}}
    return {
        "paths": {"/thing": {"get": operation}},
        "components": {"schemas": {"Thing": {"description": schema, "properties": properties}}},
    }


def test_good_openings_pass(lint: ModuleType) -> None:
    assert list(lint.problems(contract())) == []
    assert list(lint.problems(contract(field="Whether the thing is new."))) == []
    assert list(lint.problems(contract(field="`new`, or absent."))) == []


@pytest.mark.parametrize(
    ("texts", "place"),
    [
        ({"summary": "The things"}, "get_thing"),
        ({"summary": "Return a thing"}, "get_thing"),
        ({"answer": "What is done."}, "get_thing.200"),
        ({"schema": "Whose a thing is."}, "Thing"),
        ({"schema": "Facts of the user's own."}, "Thing"),
        ({"schema": ""}, "Thing"),
        ({"field": "When it was begun."}, "Thing.name"),
        ({"field": "Its full name."}, "Thing.name"),
        ({"field": "The name of the thing."}, "Thing.name"),
        ({"field": "image: where the file is found."}, "Thing.name"),
        ({"field": "Bytes."}, "Thing.name"),
        ({"field": "Name of the thing"}, "Thing.name"),
    ],
)
def test_an_opening_that_must_be_decoded_is_found(
    lint: ModuleType, texts: dict[str, str], place: str
) -> None:
    (problem,) = lint.problems(contract(**texts))
    assert problem.startswith(f"{place}: ")


def test_a_field_that_refers_to_a_schema_needs_a_text_of_its_own(lint: ModuleType) -> None:
    whole = contract()
    fields = whole["components"]["schemas"]["Thing"]["properties"]
    fields["part"] = {"$ref": "#/components/schemas/Thing"}
    assert {problem.partition(": ")[0] for problem in lint.problems(whole)} == {"Thing.part"}
    fields["part"]["description"] = "Part of the thing."
    assert list(lint.problems(whole)) == []


def test_a_class_tells_of_a_field_what_it_is_there() -> None:
    """The generator alone would repeat the text of the schema that the field refers to."""
    for name, schema in SCHEMAS.items():
        attributes = " ".join(
            (getattr(models, name).__doc__ or "").partition("Attributes:")[2].split()
        )
        for field, value in schema.get("properties", {}).items():
            if "$ref" in value:
                assert f"{field}: {value['description']}" in attributes, name


def test_the_generator_is_given_the_known_values_of_open_strings(generate: ModuleType) -> None:
    values = {"x-tinker-known-values": ["a", "b"]}
    fields = {
        "kind": {"description": "Kind of the thing.\n", **values},
        "named": {"description": "`a` or `b`.", **values},
        "query": {"description": "Kind to find.", "schema": values},
        "bare": values,
    }
    shown = generate.with_known_values({"properties": [fields]})["properties"][0]
    assert shown["kind"]["description"] == "Kind of the thing. Known values: `a`, `b`."
    assert shown["named"] == fields["named"]
    assert shown["query"]["description"] == "Kind to find. Known values: `a`, `b`."
    assert shown["bare"] == values
    assert fields["kind"]["description"] == "Kind of the thing.\n"
