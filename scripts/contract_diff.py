"""Says in words what changed in the contract since a git revision: `make contract-diff BASE=main`.

Exits with 1 when a change breaks a client that was made for the old contract, with 2 when the revision cannot be read. A schema that
requests use and one that answers use are judged by different rules; one that both use, by both:

    breaks a client                                     is safe
    an operation that is gone, or moved                 a new operation
    a parameter that is gone, or that one must send     a new optional parameter
    a property of a request that is gone, or that       a new property of a request that may be left out
    one must send and has no default
    a property of an answer that is gone, or is         a new property of an answer, or one that is sure
    no longer sure to be there, or may now be null      to be there by now
    another type or default                             texts, examples, extensions
    a protobuf field that is gone, or has another       a new protobuf field or message
    number, type or label
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from google.protobuf import descriptor_pb2
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("get", "put", "post", "delete", "patch")
MISSING = object()

Schema = Mapping[str, Any]


@frozen
class Change:
    """One line of the report."""

    text: str
    breaks: bool


# ---- reading ---------------------------------------------------------------------------------------------------------


def at_revision(revision: str, path: str, root: Path) -> str:
    """A file's text at a git revision. Raises `CalledProcessError` when there is none."""
    return subprocess.run(["git", "show", f"{revision}:{path}"], cwd=root, capture_output=True, text=True, check=True).stdout


def messages(proto: str) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Messages and their fields, each with its number, type and label."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "tinker.proto", Path(folder) / "descriptors"
        source.write_text(proto)
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={out}", str(source)]
        subprocess.run(command, check=True, capture_output=True)
        [file] = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {name: fields for message in file.message_type for name, fields in _message(message, "")}


def _message(message: descriptor_pb2.DescriptorProto, prefix: str) -> Iterator[tuple[str, dict[str, tuple[Any, ...]]]]:
    name = prefix + message.name
    yield name, {field.name: (field.number, field.type, field.type_name, field.label) for field in message.field}
    for inner in message.nested_type:
        yield from _message(inner, f"{name}.")


# ---- the OpenAPI document --------------------------------------------------------------------------------------------


@frozen
class Contract:
    """One state of the OpenAPI document."""

    document: Schema

    def operations(self) -> dict[str, tuple[str, Schema]]:
        """By operationId: method with path, and the operation."""
        return {
            operation["operationId"]: (f"{method.upper()} {path}", operation)
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def schemas(self) -> Schema:
        return self.document["components"]["schemas"]

    def resolve(self, node: Schema) -> Schema:
        while "$ref" in node:
            target: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def parameters(self, operation: Schema) -> dict[str, Schema]:
        found = (self.resolve(parameter) for parameter in operation.get("parameters", ()))
        return {f"{parameter['in']} parameter {parameter['name']}": parameter for parameter in found}

    def used_in_requests(self) -> set[str]:
        return self._used(operation.get("requestBody", {}) for _, operation in self.operations().values())

    def used_in_answers(self) -> set[str]:
        """Those of the answers, and the results of promises, which `x-tinker-results` names."""
        names = self._used(operation["responses"] for _, operation in self.operations().values())
        for schema in self.schemas().values():
            for result in schema.get("x-tinker-results", {}).values():
                names |= {result, *self._used([self.schemas()[result]])}
        return names

    def _used(self, nodes: Any) -> set[str]:
        found: set[str] = set()
        waiting = [*nodes]
        while waiting:
            node = waiting.pop()
            if isinstance(node, list):
                waiting += node
            elif isinstance(node, Mapping):
                reference = node.get("$ref")
                if isinstance(reference, str) and reference.startswith("#/components/schemas/"):
                    name = reference.rpartition("/")[2]
                    if name in found:
                        continue
                    found.add(name)
                waiting += [self.resolve(node)] if isinstance(reference, str) else node.values()
        return found


def kind(node: Schema) -> str:
    """What decides whether values fit, as text: type, reference, items, null."""
    if "$ref" in node:
        return node["$ref"].rpartition("/")[2]
    if "oneOf" in node:
        return " or ".join(sorted(kind(member) for member in node["oneOf"]))
    types = node.get("type", "anything")
    words = " or ".join(sorted(types)) if isinstance(types, list) else str(types)
    if "items" in node:
        words = words.replace("array", f"array of {kind(node['items']) if node['items'] else 'anything'}")
    if isinstance(extra := node.get("additionalProperties"), Mapping) and extra:
        words += f" of {kind(extra)}"
    return words


def _without_null(words: str) -> str:
    return " or ".join(word for word in words.split(" or ") if word != "null")


def document_changes(old: Contract, new: Contract) -> Iterator[Change]:
    yield from _operation_changes(old, new)
    before, after = old.schemas(), new.schemas()
    requests, answers = old.used_in_requests() | new.used_in_requests(), old.used_in_answers() | new.used_in_answers()
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Change(f"schema {name} is gone", True)
        elif name not in before:
            yield Change(f"schema {name} is new", False)
        else:
            yield from _schema_changes(name, before[name], after[name], in_request=name in requests, in_answer=name in answers)


def _operation_changes(old: Contract, new: Contract) -> Iterator[Change]:
    before, after = old.operations(), new.operations()
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield Change(f"operation {name} is gone", True)
        elif name not in before:
            yield Change(f"operation {name} is new", False)
        else:
            (old_place, old_operation), (new_place, new_operation) = before[name], after[name]
            if old_place != new_place:
                yield Change(f"operation {name} moved from {old_place} to {new_place}", True)
            yield from _parameter_changes(name, old.parameters(old_operation), new.parameters(new_operation))
            yield from _body_changes(name, old, old_operation, new, new_operation)


def _parameter_changes(operation: str, before: Mapping[str, Schema], after: Mapping[str, Schema]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        where = f"{operation}: {name}"
        if name not in after:
            yield Change(f"{where} is gone", True)
            continue
        needed = after[name].get("required", False)
        if name not in before:
            yield Change(f"{where} is new{' and must be sent' if needed else ''}", needed)
            continue
        if needed != before[name].get("required", False):
            yield Change(f"{where} {'must be sent now' if needed else 'may be left out now'}", needed)
        yield from _value_changes(where, before[name]["schema"], after[name]["schema"])


def _body_changes(name: str, old: Contract, before: Schema, new: Contract, after: Schema) -> Iterator[Change]:
    yield from _media_changes(f"{name}: request body", before.get("requestBody", {}), after.get("requestBody", {}))
    old_answers, new_answers = before["responses"], after["responses"]
    for status in sorted(old_answers.keys() | new_answers.keys()):
        if status not in new_answers:
            yield Change(f"{name}: answer {status} is gone", status.startswith("2"))
        elif status not in old_answers:
            yield Change(f"{name}: answer {status} is new", False)
        else:
            yield from _media_changes(
                f"{name}: answer {status}", old.resolve(old_answers[status]), new.resolve(new_answers[status])
            )


def _media_changes(where: str, before: Schema, after: Schema) -> Iterator[Change]:
    old, new = ({media: kind(entry["schema"]) for media, entry in node.get("content", {}).items()} for node in (before, after))
    for media in sorted(old.keys() | new.keys()):
        if media not in new:
            yield Change(f"{where} as {media} is gone", True)
        elif media not in old:
            yield Change(f"{where} as {media} is new", False)
        elif old[media] != new[media]:
            yield Change(f"{where} as {media} is {new[media]} instead of {old[media]}", True)


def _schema_changes(name: str, before: Schema, after: Schema, *, in_request: bool, in_answer: bool) -> Iterator[Change]:
    if kind(before) != kind(after):
        yield Change(f"{name} is {kind(after)} instead of {kind(before)}", True)
    old, new = before.get("properties", {}), after.get("properties", {})
    for key in sorted(old.keys() | new.keys()):
        where, was_sure, is_sure = f"{name}.{key}", key in before.get("required", ()), key in after.get("required", ())
        must_be_sent = in_request and is_sure and "default" not in new.get(key, {})
        if key not in new:
            yield Change(f"{where} is gone", True)
        elif key not in old:
            yield Change(f"{where} is new{' and must be sent' if must_be_sent else ''}", must_be_sent)
        else:
            if is_sure and not was_sure:
                yield Change(f"{where} {'must be sent now' if must_be_sent else 'is sure to be there now'}", must_be_sent)
            elif was_sure and not is_sure:
                yield Change(f"{where} is optional now", in_answer)
            yield from _value_changes(where, old[key], new[key], null_is_safe=in_request and not in_answer)


def _value_changes(where: str, before: Schema, after: Schema, *, null_is_safe: bool = False) -> Iterator[Change]:
    old, new = kind(before), kind(after)
    if old != new:
        same_but_null = _without_null(old) == _without_null(new)
        safe = same_but_null and (("null" in new.split(" or ")) == null_is_safe)
        yield Change(f"{where} is {new} instead of {old}", not safe)
    if before.get("default", MISSING) != after.get("default", MISSING):
        words = (repr(node["default"]) if "default" in node else "none" for node in (after, before))
        yield Change(f"{where}: the default is {next(words)} instead of {next(words)}", True)


# ---- the protobuf messages -------------------------------------------------------------------------------------------


def proto_changes(
    old: Mapping[str, Mapping[str, tuple[Any, ...]]], new: Mapping[str, Mapping[str, tuple[Any, ...]]]
) -> Iterator[Change]:
    for message in sorted(old.keys() | new.keys()):
        if message not in new:
            yield Change(f"message {message} is gone", True)
            continue
        if message not in old:
            yield Change(f"message {message} is new", False)
            continue
        before, after = old[message], new[message]
        for field in sorted(before.keys() | after.keys()):
            if field not in after:
                yield Change(f"{message}.{field} (protobuf) is gone", True)
            elif field not in before:
                yield Change(f"{message}.{field} (protobuf) is new", False)
            elif before[field] != after[field]:
                yield Change(f"{message}.{field} (protobuf) has another number, type or label", True)


# ---- the command -----------------------------------------------------------------------------------------------------


def changes_since(revision: str, root: Path) -> list[Change]:
    yaml = YAML(typ="safe")
    document, proto = "openapi/tinker.yaml", "openapi/tinker.proto"
    old, new = Contract(yaml.load(at_revision(revision, document, root))), Contract(yaml.load((root / document).read_text()))
    old_messages, new_messages = messages(at_revision(revision, proto, root)), messages((root / proto).read_text())
    changes = [*document_changes(old, new), *proto_changes(old_messages, new_messages)]
    if not changes and old != new:
        changes.append(Change("texts, examples or extensions", False))
    return changes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="git revision to compare with")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree to compare")
    options = parser.parse_args(arguments)
    try:
        changes = changes_since(options.base, options.root)
    except subprocess.CalledProcessError as error:
        print(f"cannot compare with {options.base!r}: {(error.stderr or str(error)).strip()}", file=sys.stderr)
        return 2
    for heading, breaks in (("breaks clients", True), ("safe", False)):
        if lines := [change.text for change in changes if change.breaks is breaks]:
            print(f"{heading}:", *lines, sep="\n  ")
    if not changes:
        print("the contract is the same")
    return 1 if any(change.breaks for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
