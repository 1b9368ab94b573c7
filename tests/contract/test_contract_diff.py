"""`make contract-diff` tells what breaks a client from what does not."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

CONTRACT = """
openapi: 3.1.0
security: [{Key: []}]
paths:
  /a:
    post:
      operationId: do_a
      parameters:
        - {$ref: "#/components/parameters/Limit"}
        - {name: trace, in: header, schema: {type: [string, "null"]}}
      requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Ask"}}}}
      responses:
        "200":
          description: ok
          content: {application/json: {schema: {$ref: "#/components/schemas/Answer"}}}
        "404": {$ref: "#/components/responses/NotFound"}
  /b:
    get:
      operationId: get_b
      parameters:
        - {$ref: "#/components/parameters/Limit"}
      responses:
        "200": {description: ok}
        "404": {$ref: "#/components/responses/NotFound"}
components:
  securitySchemes:
    Key: {type: apiKey, in: header, name: X-Key, description: The key.}
  parameters:
    Limit: {name: limit, in: query, schema: {type: integer, default: 20}}
  responses:
    NotFound: {description: No., headers: {Retry-After: {schema: {type: string}}}}
  schemas:
    Ask:
      type: object
      description: A question.
      required: [name, kind]
      properties:
        name: {type: string}
        kind: {type: string, default: ask}
        size: {type: [integer, "null"], x-tinker-default: 1}
        both: {$ref: "#/components/schemas/Both"}
    Answer:
      type: object
      required: [id]
      x-tinker-results: {do_a: Result}
      properties:
        id: {type: string}
        note: {type: [string, "null"]}
        page: {type: array, items: {type: integer}}
        both: {$ref: "#/components/schemas/Both"}
    Both:
      type: object
      required: [x]
      properties:
        x: {type: number}
        y: {type: [number, "null"]}
    Result:
      type: object
      required: [loss]
      properties:
        loss: {type: number}
"""
PROTO = """
syntax = "proto3";
package p;
enum E { NONE = 0; ONE = 1; }
message M {
  int32 a = 1;
  repeated float b = 2;
  map<string, double> c = 3;
  oneof d { bytes e = 4; E f = 5; }
  message Inner { string g = 1; }
}
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "contract_diff", ROOT / "scripts" / "contract_diff.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


main: Callable[[list[str]], int] = load().main


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose HEAD holds the contract above. Each test writes its own over the files."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "openapi").mkdir()
    write(folder, CONTRACT, PROTO)
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "base"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def write(tree: Path, contract: str, proto: str) -> None:
    (tree / "openapi" / "tinker.yaml").write_text(contract)
    (tree / "openapi" / "tinker.proto").write_text(proto)


def change(tree: Path, *edits: tuple[str, str]) -> None:
    """Writes the contract with texts replaced, each of which is there once."""
    contract, proto = CONTRACT, PROTO
    for old, new in edits:
        assert (contract + proto).count(old) == 1, old
        contract, proto = contract.replace(old, new), proto.replace(old, new)
    write(tree, contract, proto)


def report(tree: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], list[str]]:
    """The exit code, what breaks clients, and what is safe."""
    code = main(["HEAD", f"--root={tree}"])
    lines = capsys.readouterr().out.splitlines()
    split = lines.index("safe:") if "safe:" in lines else len(lines)
    breaking, safe = lines[:split], lines[split:]
    assert [line for line in lines if not line.startswith("  ")] == [*breaking[:1], *safe[:1]]
    return code, [line.strip() for line in breaking[1:]], [line.strip() for line in safe[1:]]


def test_without_a_change_nothing_is_reported(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tree, CONTRACT, PROTO)
    assert main(["HEAD", f"--root={tree}"]) == 0
    assert capsys.readouterr().out == "the contract is the same\n"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("operationId: get_b", "operationId: fetch_b", "operation get_b is gone"),
        ("  /b:", "  /c:", "operation get_b moved from GET /b to GET /c"),
        ("    get:", "    put:", "operation get_b moved from GET /b to PUT /b"),
        ("        - {name: trace", "        - {name: span", "do_a: header parameter trace is gone"),
        (
            "name: trace, in: header",
            "name: trace, required: true, in: header",
            "do_a: header parameter trace must be sent now",
        ),
        (
            'in: header, schema: {type: [string, "null"]}',
            "in: header, schema: {type: string}",
            "do_a: header parameter trace is string instead of string or null",
        ),
        (
            "in: query, schema: {type: integer, default: 20}",
            "in: query, schema: {type: string, default: 20}",
            "parameter Limit is string instead of integer",
        ),
        ("default: 20", "default: 30", "parameter Limit: the default is 30 instead of 20"),
        ("requestBody: {", "requestBody: {required: true, ", "do_a: request body must be sent now"),
        (
            '{content: {application/json: {schema: {$ref: "#/components/schemas/Ask"',
            '{content: {text/json: {schema: {$ref: "#/components/schemas/Ask"',
            "do_a: request body as application/json is gone",
        ),
        (
            'schema: {$ref: "#/components/schemas/Answer"}',
            "schema: {type: string}",
            "do_a: answer 200 as application/json is string instead of Answer",
        ),
        ('        "200": {description: ok}\n', "", "get_b: answer 200 is gone"),
        (
            "headers: {Retry-After: {schema: {type: string}}}",
            "headers: {}",
            "answer NotFound: header Retry-After is gone",
        ),
        (
            "security: [{Key: []}]",
            "security: [{Other: []}]",
            "the document asks for other credentials",
        ),
        (
            "operationId: get_b",
            "operationId: get_b\n      security: [{Other: []}]",
            "get_b asks for other credentials",
        ),
        ("name: X-Key", "name: X-Other-Key", "credentials are sent in another way"),
        ("{do_a: Result}", "{do_a: Both}", "do_a: its result is Both instead of Result"),
        ("        name: {type: string}\n", "", "Ask.name is gone"),
        ("required: [name, kind]", "required: [name, kind, both]", "Ask.both must be sent now"),
        ("kind: {type: string, default: ask}", "kind: {type: string}", "Ask.kind must be sent now"),
        (
            "default: ask",
            "default: question",
            "Ask.kind: the default is 'question' instead of 'ask'",
        ),
        ("x-tinker-default: 1", "x-tinker-default: 2", "Ask.size: the default is 2 instead of 1"),
        (
            'size: {type: [integer, "null"],',
            "size: {type: integer,",
            "Ask.size is integer instead of integer or null",
        ),
        ('        note: {type: [string, "null"]}\n', "", "Answer.note is gone"),
        ("required: [id]", "required: []", "Answer.id may be missing now"),
        ("id: {type: string}", "id: {type: string, default: none}", "Answer.id may be missing now"),
        (
            "id: {type: string}",
            'id: {type: [string, "null"]}',
            "Answer.id is string or null instead of string",
        ),
        (
            "id: {type: string}",
            "id: {type: string, format: date-time}",
            "Answer.id is string (date-time) instead of string",
        ),
        (
            "items: {type: integer}",
            'items: {type: [integer, "null"]}',
            "Answer.page is array of (integer or null) instead of array of integer",
        ),
        ("required: [loss]", "required: []", "Result.loss may be missing now"),
        (
            "x: {type: number}",
            'x: {type: [number, "null"]}',
            "Both.x is number or null instead of number",
        ),
        (
            'y: {type: [number, "null"]}',
            "y: {type: number}",
            "Both.y is number instead of number or null",
        ),
        ("required: [x]", "required: []", "Both.x may be missing now"),
        ("required: [x]", "required: [x, y]", "Both.y must be sent now"),
        ("int32 a = 1;", "", "M.a (protobuf) is gone"),
        ("int32 a = 1;", "int32 a = 9;", "M.a (protobuf) has number 9 instead of 1"),
        ("int32 a = 1;", "int64 a = 1;", "M.a (protobuf) is int64 instead of int32"),
        ("repeated float b", "float b", "M.b (protobuf) is float instead of repeated float"),
        (
            "map<string, double>",
            "map<string, float>",
            "M.c (protobuf) is map<string, float> instead of map<string, double>",
        ),
        (
            "oneof d {",
            "oneof x {",
            "M.e (protobuf) is bytes in oneof x instead of bytes in oneof d",
        ),
        ("message Inner", "message Outer", "M.Inner (protobuf) is gone"),
        (" ONE = 1;", "", "enum E.ONE (protobuf) is gone"),
        ("ONE = 1", "ONE = 2", "enum E.ONE (protobuf) has number 2 instead of 1"),
    ],
)
def test_breaking_changes_are_reported_as_such(
    tree: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: str
) -> None:
    change(tree, (old, new))
    code, breaking, _ = report(tree, capsys)
    assert (code, line in breaking) == (1, True), breaking


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "  /b:\n    get:\n",
            "  /c:\n    get: {operationId: get_c, responses: {}}\n  /b:\n    get:\n",
            "operation get_c is new",
        ),
        (
            "        - {name: trace",
            "        - {name: span, in: query, schema: {type: string}}\n        - {name: trace",
            "do_a: query parameter span is new",
        ),
        (
            '        "200": {description: ok}\n',
            '        "200": {description: ok}\n        "429": {description: slow}\n',
            "get_b: answer 429 is new",
        ),
        (
            (
                '        "200": {description: ok}\n        "404": {$ref: '
                '"#/components/responses/NotFound"}\n'
            ),
            '        "200": {description: ok}\n',
            "get_b: answer 404 is gone",
        ),
        (
            '        "200": {description: ok}\n',
            "        2XX: {description: ok}\n",
            "get_b: answer 200 is gone",
        ),
        (
            "security: [{Key: []}]",
            "security: [{Key: []}, {}]",
            "the document asks for other credentials",
        ),
        (
            "name: {type: string}",
            "name: {type: string}\n        more: {type: string}",
            "Ask.more is new",
        ),
        (
            "name: {type: string}",
            'name: {type: [string, "null"]}',
            "Ask.name is string or null instead of string",
        ),
        ("name: {type: string}", "name: {type: string, default: x}", "Ask.name may be missing now"),
        ("required: [name, kind]", "required: [kind]", "Ask.name may be missing now"),
        (
            "id: {type: string}",
            "id: {type: string}\n        more: {type: string}",
            "Answer.more is new",
        ),
        ("required: [id]", "required: [id, page]", "Answer.page is sure to be there now"),
        (
            'note: {type: [string, "null"]}',
            "note: {type: string}",
            "Answer.note is string instead of string or null",
        ),
        (
            "page: {type: array,",
            'page: {type: [array, "null"],',
            "Answer.page is array of integer or null instead of array of integer",
        ),
        ("    Result:\n", "    New: {type: object}\n    Result:\n", "schema New is new"),
        ("int32 a = 1;", "int32 a = 1; int32 z = 7;", "M.z (protobuf) is new"),
        ("int32 a = 1;", "int32 z = 1;", "M.a (protobuf) is called z now"),
        (
            "int32 a = 1;",
            "optional int32 a = 1;",
            "M.a (protobuf) is optional int32 instead of int32",
        ),
        ("ONE = 1;", "ONE = 1; TWO = 2;", "enum E.TWO (protobuf) is new"),
        (
            "int32 a = 1;",
            "int32 a = 1; // steps",
            "nothing that the rules look at: read `git diff`",
        ),
    ],
)
def test_safe_changes_are_reported_as_such(
    tree: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: str
) -> None:
    change(tree, (old, new))
    code, breaking, safe = report(tree, capsys)
    assert (code, breaking) == (0, [])
    assert line in safe


def test_a_new_required_property_breaks_only_requests(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "\n        more: {type: string}"
    change(
        tree,
        ("required: [id]", "required: [id, more]"),
        ("id: {type: string}", "id: {type: string}" + more),
    )
    assert report(tree, capsys) == (0, [], ["Answer.more is new"])
    change(
        tree,
        ("required: [name, kind]", "required: [name, kind, more]"),
        ("name: {type: string}", "name: {type: string}" + more),
    )
    assert report(tree, capsys) == (1, ["Ask.more is new and must be sent"], [])


def test_a_renamed_schema_is_reported_as_breaking(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(tree, ("    Result:\n", "    Outcome:\n"), ("{do_a: Result}", "{do_a: Outcome}"))
    breaking = ["do_a: its result is Outcome instead of Result", "schema Result is gone"]
    assert report(tree, capsys) == (1, breaking, ["schema Outcome is new"])


def test_a_change_shared_by_operations_is_reported_once(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(
        tree,
        ("default: 20", "default: 30"),
        ("headers: {Retry-After: {schema: {type: string}}}", "headers: {}"),
    )
    assert len(report(tree, capsys)[1]) == 2


def test_texts_are_counted_in_the_last_line(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(
        tree,
        ("description: A question.", "description: A better one."),
        ("description: The key.", "description: The credential."),
        (
            "loss: {type: number}",
            "loss: {type: number, example: 1.5}\n        more: {type: number}",
        ),
    )
    assert report(tree, capsys) == (
        0,
        [],
        ["Result.more is new", "3 descriptions, examples or notes"],
    )


@pytest.mark.parametrize(
    ("revision", "contract", "proto"),
    [
        ("no-such-thing", CONTRACT, PROTO),
        ("HEAD", "a: [", PROTO),
        # which x-tinker-results still names
        ("HEAD", CONTRACT.replace("    Result:\n", "    Outcome:\n"), PROTO),
        ("HEAD", CONTRACT, "message {"),
    ],
)
def test_an_unreadable_document_is_an_error(
    tree: Path, capsys: pytest.CaptureFixture[str], revision: str, contract: str, proto: str
) -> None:
    write(tree, contract, proto)
    assert main([revision, f"--root={tree}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cannot compare with '{revision}': ")


def test_a_missing_file_is_an_error(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tree, CONTRACT, PROTO)
    (tree / "openapi" / "tinker.yaml").unlink()
    assert main(["HEAD", f"--root={tree}"]) == 2
    assert "tinker.yaml" in capsys.readouterr().err
