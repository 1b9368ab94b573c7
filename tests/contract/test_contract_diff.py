"""`make contract-diff` tells what breaks a client from what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONTRACT = """
openapi: 3.1.0
paths:
  /a:
    post:
      operationId: do_a
      parameters:
        - {name: limit, in: query, schema: {type: integer, default: 20}}
      requestBody: {content: {application/json: {schema: {$ref: "#/components/schemas/Ask"}}}}
      responses:
        "200": {description: ok, content: {application/json: {schema: {$ref: "#/components/schemas/Answer"}}}}
        "404": {description: no}
components:
  schemas:
    Ask:
      type: object
      description: A question.
      required: [name]
      properties:
        name: {type: string}
        size: {type: integer, default: 1}
    Answer:
      type: object
      required: [id]
      properties:
        id: {type: string}
        note: {type: [string, "null"]}
"""
PROTO = 'syntax = "proto3"; message M { int32 a = 1; repeated float b = 2; }'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "openapi").mkdir()
    write(tmp_path, CONTRACT, PROTO)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "base"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def write(tree: Path, contract: str, proto: str) -> None:
    (tree / "openapi" / "tinker.yaml").write_text(contract)
    (tree / "openapi" / "tinker.proto").write_text(proto)


def diff(tree: Path, base: str = "HEAD") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "contract_diff.py"), base, f"--root={tree}"]
    return subprocess.run(command, capture_output=True, text=True)


def test_no_change(tree: Path) -> None:
    done = diff(tree)
    assert (done.returncode, done.stdout) == (0, "the contract is the same\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("operationId: do_a", "operationId: do_b", "operation do_a is gone"),
        ("  /a:", "  /b:", "do_a moved from POST /a to POST /b"),
        ("in: query, schema", "in: query, required: true, schema", "limit must be sent now"),
        ("{name: limit, in: query", "{name: count, in: query", "query parameter limit is gone"),
        ("        size: {type: integer, default: 1}", "        size: {type: string}", "Ask.size is string instead of integer"),
        ("default: 1}", "default: 2}", "the default is 2 instead of 1"),
        ("required: [id]", "required: []", "Answer.id is optional now"),
        ("id: {type: string}", 'id: {type: [string, "null"]}', "Answer.id is null or string instead of string"),
        ('        note: {type: [string, "null"]}\n', "", "Answer.note is gone"),
        ("int32 a = 1", "int32 a = 3", "M.a (protobuf) has another number"),
        ("int32 a = 1", "int64 a = 1", "M.a (protobuf) has another number, type"),
        ("int32 a = 1;", "", "M.a (protobuf) is gone"),
    ],
)
def test_what_breaks_a_client(tree: Path, old: str, new: str, words: str) -> None:
    assert old in CONTRACT + PROTO
    write(tree, CONTRACT.replace(old, new), PROTO.replace(old, new))
    done = diff(tree)
    assert done.returncode == 1, done.stdout
    assert words in done.stdout.partition("safe:")[0]


def test_a_new_property_that_must_be_sent_breaks_requests_alone(tree: Path) -> None:
    changed = CONTRACT.replace("required: [name]", "required: [name, must]").replace(
        "        name: {type: string}\n", "        name: {type: string}\n        must: {type: string}\n"
    )
    write(tree, changed, PROTO)
    done = diff(tree)
    assert (done.returncode, "Ask.must is new and must be sent" in done.stdout) == (1, True)
    changed = CONTRACT.replace("required: [id]", "required: [id, sure]").replace(
        "        id: {type: string}\n", "        id: {type: string}\n        sure: {type: string}\n"
    )
    write(tree, changed, PROTO)
    done = diff(tree)
    assert (done.returncode, "Answer.sure is new" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("description: A question.", "description: A better one.", "texts, examples or extensions"),
        ('note: {type: [string, "null"]}', "note: {type: string}", "Answer.note is string instead of null or string"),
        ("size: {type: integer, default: 1}", "size: {type: integer, default: 1}\n        more: {type: string}", "Ask.more is new"),
        ('"404": {description: no}', '"404": {description: no}\n        "429": {description: slow}', "answer 429 is new"),
        ("int32 a = 1;", "int32 a = 1; int32 c = 3;", "M.c (protobuf) is new"),
    ],
)
def test_what_is_safe(tree: Path, old: str, new: str, words: str) -> None:
    write(tree, CONTRACT.replace(old, new), PROTO.replace(old, new))
    done = diff(tree)
    assert (done.returncode, words in done.stdout) == (0, True), done.stdout


def test_a_revision_that_there_is_not(tree: Path) -> None:
    done = diff(tree, "no-such-thing")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
