"""The contract describes itself well: each schema has an example that is valid and that the
generated classes read and write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tinkex_api.models
from openapi_schema_validator import OAS31Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support.contract import CONTRACT, SCHEMAS

METHODS = {"get", "put", "post", "delete", "patch"}
NAMED_OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    (operation["operationId"], operation)
    for item in CONTRACT["paths"].values()
    for method, operation in item.items()
    if method in METHODS
]
OPERATIONS = dict(NAMED_OPERATIONS)
REGISTRY = Registry().with_resource("tinker.yaml", Resource.from_contents(CONTRACT, DRAFT202012))


def validator(name: str, folder: str = "schemas", below: str = "") -> OAS31Validator:
    return OAS31Validator(
        {"$ref": f"tinker.yaml#/components/{folder}/{name}{below}"}, registry=REGISTRY
    )


def walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every mapping of the document with where it stands, examples left out."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            if key != "example":
                yield from walk(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, (*path, str(index)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_example_fits_its_schema(name: str) -> None:
    assert SCHEMAS[name]["description"]
    assert [error.message for error in validator(name).iter_errors(SCHEMAS[name]["example"])] == []


def test_the_validator_refuses_what_does_not_fit() -> None:
    assert not validator("Datum").is_valid(
        {"model_input": {"chunks": [{"tokens": "no type"}]}, "loss_fn_inputs": {}}
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_example_comes_back_from_the_generated_class(name: str) -> None:
    example = SCHEMAS[name]["example"]
    written = getattr(tinkex_api.models, name).from_dict(example).to_dict()
    nulls = {key for key, value in example.items() if value is None} - set(
        SCHEMAS[name].get("required", ())
    )
    assert {key: written[key] for key in example.keys() - nulls} == {
        key: example[key] for key in example.keys() - nulls
    }
    defaults = {
        key: value["default"]
        for key, value in SCHEMAS[name].get("properties", {}).items()
        if "default" in value
    }
    added = written.keys() - example.keys()
    assert {key: written[key] for key in added} == {key: defaults[key] for key in added}


@pytest.mark.parametrize("name", SCHEMAS)
def test_unknown_fields_are_kept(name: str) -> None:
    schema = SCHEMAS[name]
    if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        pytest.skip("a map: its fields are of one known kind")
    example = schema["example"] | {"a_field_of_tomorrow": {"deep": [1]}}
    assert getattr(tinkex_api.models, name).from_dict(example).to_dict()["a_field_of_tomorrow"] == {
        "deep": [1]
    }


@pytest.mark.parametrize("name", CONTRACT["components"]["parameters"])
def test_an_example_of_a_parameter_fits(name: str) -> None:
    parameter = CONTRACT["components"]["parameters"][name]
    assert parameter["description"]
    assert validator(name, "parameters", "/schema").is_valid(parameter["example"])


@pytest.mark.parametrize("name", CONTRACT["components"]["responses"])
def test_an_example_of_an_answer_fits(name: str) -> None:
    answer = CONTRACT["components"]["responses"][name]
    assert answer["description"]
    for content in answer.get("content", {}).values():
        schema = content["schema"]["$ref"].rpartition("/")[2]
        assert validator(schema).is_valid(content.get("example", SCHEMAS[schema]["example"]))


def test_no_two_operations_have_one_name() -> None:
    assert len(OPERATIONS) == len(NAMED_OPERATIONS)


def test_objects_have_names_and_no_set_of_values_is_closed() -> None:
    """The generator names inline objects badly and refuses unknown values of an enum; `make
    contract-diff` looks at neither.
    """
    for path, node in walk(CONTRACT):
        is_named = path[:2] == ("components", "schemas") and len(path) == 3
        assert is_named or not isinstance(node.get("properties"), dict), path
        assert path[-1:] == ("properties",) or not node.keys() & {"enum", "const", "allOf"}, path


def test_names_in_extensions_exist() -> None:
    for path, node in walk(CONTRACT):
        assert set(node.get("x-tinker-missing-on", ())) <= CONTRACT["x-tinker-servers"].keys(), path
        results = node.get("x-tinker-results", {})
        assert results.keys() <= OPERATIONS.keys(), path
        assert set(results.values()) <= SCHEMAS.keys(), path


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_described_with_its_answers(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    assert len(operation["tags"]) == 1
    statuses = operation["responses"].keys()
    assert any(status.startswith("2") for status in statuses)
    assert "500" in statuses
    assert any(status.startswith("4") for status in statuses)
