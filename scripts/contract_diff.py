"""Says in words what changed in the contract since a git revision: `make contract-diff BASE=main`.

Exits with 1 when a change breaks a client that was made for the old contract, with 2 when one of
the two contracts cannot be read. A schema that requests use and one that answers use are judged by
different rules; one that both use, by both:

    breaks a client                                     is safe
    an operation that is gone, renamed or moved         a new operation
    a parameter, property, body form, answer header     a new one that may be left out
    or schema that is gone
    what a request must hold now                        what a request may leave out now
    what an answer may leave out now                    what an answer is sure to hold now
    null: allowed where an answer was sure to hold      null: allowed in a request, or in an answer
    that might lack it; something, or refused in a request                  gone from an answer
    another type, or another result of a promise another default, or none any more
    a default where there was none an answer of status 2XX that is gone                any other
    status that is gone, or new other credentials                                   credentials that
    are optional now a protobuf field or enum value that is gone, or     a new one; one that has
    another name, or turned `optional`; both go has another number or type
    over the wire as before

"Must hold" is required without a default: `x-tinker-default` counts as one. Descriptions, examples
and notes are only counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT, PROTO = "openapi/tinker.yaml", "openapi/tinker.proto"
METHODS = ("get", "put", "post", "delete", "patch")
TEXTS = {
    "description",
    "example",
    "examples",
    "externalDocs",
    "info",
    "servers",
    "summary",
    "tags",
    "title",
}
EFFECTIVE_EXTENSIONS = {"x-tinker-default", "x-tinker-results"}

Node = Mapping[str, Any]


@frozen
class Change:
    """One line of the report."""

    text: str
    breaks: bool


@frozen
class Use:
    """The directions in which the values of a schema travel."""

    in_requests: bool
    in_answers: bool


REQUEST, ANSWER = Use(True, False), Use(False, True)


# ---- the OpenAPI document ----


@frozen
class Contract:
    """One state of the OpenAPI document."""

    document: Node

    def operations(self) -> dict[str, tuple[str, Node]]:
        """Returns method with path, and the operation, by operationId."""
        return {
            operation["operationId"]: (f"{method.upper()} {path}", operation)
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def components(self, kind: str) -> Node:
        return self.document["components"].get(kind, {})

    def resolve(self, node: Node) -> Node:
        """Returns the target of a reference, or the node itself. Raises `ValueError` when it leads
        nowhere.
        """
        while "$ref" in node:
            target: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                if part not in target:
                    raise ValueError(f"{node['$ref']} leads nowhere")
                target = target[part]
            node = target
        return node

    def parameters(self, operation: Node) -> dict[str, Node]:
        named = (
            (self.resolve(parameter), parameter) for parameter in operation.get("parameters", ())
        )
        return {f"{found['in']} parameter {found['name']}": parameter for found, parameter in named}

    def results(self) -> dict[str, str]:
        """Returns the schema of each promised result by its operation."""
        return {
            k: v
            for schema in self.components("schemas").values()
            for k, v in schema.get("x-tinker-results", {}).items()
        }

    def credentials(self) -> list[dict[str, Any]]:
        """Describes how credentials are sent."""
        return [
            {k: v for k, v in scheme.items() if k != "description"}
            for scheme in self.components("securitySchemes").values()
        ]

    def schemas_of_requests(self) -> set[str]:
        return self._reached(
            operation.get("requestBody", {}) for _, operation in self.operations().values()
        )

    def schemas_of_answers(self) -> set[str]:
        results = [{"$ref": f"#/components/schemas/{name}"} for name in self.results().values()]
        return self._reached(
            [*results, *(operation["responses"] for _, operation in self.operations().values())]
        )

    def _reached(self, nodes: Iterable[Any]) -> set[str]:
        """Returns the names of the schemas that these parts refer to, at any depth."""
        references: set[str] = set()
        waiting = [*nodes]
        while waiting:
            node = waiting.pop()
            if isinstance(node, list):
                waiting += node
            elif isinstance(node, Mapping):
                waiting += node.values()
                reference = node.get("$ref")
                if isinstance(reference, str) and reference not in references:
                    references.add(reference)
                    waiting.append(self.resolve(node))
        return {
            name
            for kind, _, name in (reference.rpartition("/") for reference in references)
            if kind.endswith("/schemas")
        }


def kinds(node: Node) -> frozenset[str]:
    """Describes the types that a value may have."""
    if "$ref" in node:
        return frozenset([node["$ref"].rpartition("/")[2]])
    for word in ("oneOf", "anyOf"):
        if word in node:
            return frozenset().union(*(kinds(member) for member in node[word]))
    types = node.get("type", "anything")
    return frozenset(_kind(word, node) for word in ([types] if isinstance(types, str) else types))


def _kind(word: str, node: Node) -> str:
    inner = {"array": node.get("items"), "object": node.get("additionalProperties")}.get(word)
    if isinstance(inner, Mapping) and inner:
        return (
            f"{word} of ({in_words(kinds(inner))})"
            if len(kinds(inner)) > 1
            else f"{word} of {in_words(kinds(inner))}"
        )
    # Of numbers the format is a note, int32 or int64; a text with another format is another type to
    # the generated code.
    return f"{word} ({node['format']})" if word == "string" and "format" in node else word


def in_words(found: frozenset[str]) -> str:
    return " or ".join(sorted(found, key=lambda word: (word == "null", word)))


def default_of(node: Node) -> str | None:
    found = [node[key] for key in ("default", "x-tinker-default") if key in node]
    return repr(found[0]) if found else None


def must_hold(schema: Node, key: str) -> bool:
    return key in schema.get("required", ()) and default_of(schema["properties"][key]) is None


def document_changes(old: Contract, new: Contract) -> Iterator[Change]:
    yield from _credential_changes("the document", old.document, new.document)
    if old.credentials() != new.credentials():
        yield Change("credentials are sent in another way", True)
    yield from _operation_changes(old, new)
    yield from _shared_part_changes(old, new)
    yield from _result_changes(old.results(), new.results())
    yield from _all_schema_changes(old, new)


def _credential_changes(where: str, before: Node, after: Node) -> Iterator[Change]:
    old, new = (node.get("security") for node in (before, after))
    if old != new:
        yield Change(f"{where} asks for other credentials", new is None or {} not in new)


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
            yield from _credential_changes(name, old_operation, new_operation)
            yield from _parameter_changes(name, old, old_operation, new, new_operation)
            yield from _body_changes(
                name,
                old.resolve(old_operation.get("requestBody", {})),
                new.resolve(new_operation.get("requestBody", {})),
            )
            yield from _answer_changes(
                name, old, old_operation["responses"], new, new_operation["responses"]
            )


def _parameter_changes(
    name: str, old: Contract, old_operation: Node, new: Contract, new_operation: Node
) -> Iterator[Change]:
    before, after = old.parameters(old_operation), new.parameters(new_operation)
    for key in sorted(before.keys() | after.keys()):
        where = f"{name}: {key}"
        if key not in after:
            yield Change(f"{where} is gone", True)
        elif key not in before:
            needed = new.resolve(after[key]).get("required", False)
            yield Change(f"{where} is new{' and must be sent' if needed else ''}", needed)
        elif not _same_reference(before[key], after[key]):
            yield from _one_parameter_changes(
                where, old.resolve(before[key]), new.resolve(after[key])
            )


def _one_parameter_changes(where: str, before: Node, after: Node) -> Iterator[Change]:
    yield from _needed_changes(where, before, after)
    yield from _value_changes(where, before["schema"], after["schema"], REQUEST)
    yield from _default_changes(where, before["schema"], after["schema"])


def _needed_changes(where: str, before: Node, after: Node) -> Iterator[Change]:
    needed = after.get("required", False)
    if needed != before.get("required", False):
        yield Change(f"{where} {'must be sent now' if needed else 'may be left out now'}", needed)


def _body_changes(name: str, before: Node, after: Node) -> Iterator[Change]:
    where = f"{name}: request body"
    yield from _needed_changes(where, before, after)
    yield from _media_changes(where, before, after, REQUEST)


def _answer_changes(
    name: str, old: Contract, before: Node, new: Contract, after: Node
) -> Iterator[Change]:
    for status in sorted(before.keys() | after.keys()):
        where = f"{name}: answer {status}"
        if status not in after:
            # Clients read errors by class of status, and a server may answer with any.
            yield Change(f"{where} is gone", status.startswith("2") and "2XX" not in after)
        elif status not in before:
            yield Change(f"{where} is new", False)
        elif not _same_reference(before[status], after[status]):
            yield from _one_answer_changes(
                where, old.resolve(before[status]), new.resolve(after[status])
            )


def _one_answer_changes(where: str, before: Node, after: Node) -> Iterator[Change]:
    yield from _media_changes(where, before, after, ANSWER)
    old, new = before.get("headers", {}), after.get("headers", {})
    for header in sorted(old.keys() ^ new.keys()):
        yield Change(
            f"{where}: header {header} is {'gone' if header in old else 'new'}", header in old
        )


def _same_reference(before: Node, after: Node) -> bool:
    """Tells whether both refer to the same part of `components`, which is compared only once."""
    return "$ref" in before and before == after


def _shared_part_changes(old: Contract, new: Contract) -> Iterator[Change]:
    for name, before, after in _in_both(old.components("parameters"), new.components("parameters")):
        yield from _one_parameter_changes(f"parameter {name}", before, after)
    for name, before, after in _in_both(old.components("responses"), new.components("responses")):
        yield from _one_answer_changes(f"answer {name}", before, after)


def _in_both(old: Node, new: Node) -> list[tuple[str, Any, Any]]:
    return [(name, old[name], new[name]) for name in sorted(old.keys() & new.keys())]


def _media_changes(where: str, before: Node, after: Node, use: Use) -> Iterator[Change]:
    old, new = before.get("content", {}), after.get("content", {})
    for media in sorted(old.keys() ^ new.keys()):
        yield Change(f"{where} as {media} is {'gone' if media in old else 'new'}", media in old)
    for media, one, other in _in_both(old, new):
        yield from _value_changes(f"{where} as {media}", one["schema"], other["schema"], use)


def _result_changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield Change(f"{name}: its result is known now, {after[name]}", False)
        elif before[name] != after.get(name):
            yield Change(
                f"{name}: its result is {after.get(name, 'unknown')} instead of {before[name]}",
                True,
            )


def _all_schema_changes(old: Contract, new: Contract) -> Iterator[Change]:
    before, after = old.components("schemas"), new.components("schemas")
    requests = old.schemas_of_requests() | new.schemas_of_requests()
    answers = old.schemas_of_answers() | new.schemas_of_answers()
    for name in sorted(before.keys() ^ after.keys()):
        yield Change(f"schema {name} is {'gone' if name in before else 'new'}", name in before)
    for name, one, other in _in_both(before, after):
        unused = name not in requests | answers  # by nothing here: others may use it either way
        yield from _schema_changes(
            name, one, other, Use(unused or name in requests, unused or name in answers)
        )


def _schema_changes(name: str, before: Node, after: Node, use: Use) -> Iterator[Change]:
    yield from _value_changes(name, before, after, use)
    old, new = before.get("properties", {}), after.get("properties", {})
    for key in sorted(old.keys() | new.keys()):
        where, needed = f"{name}.{key}", key in new and must_hold(after, key)
        if key not in new:
            yield Change(f"{where} is gone", True)
        elif key not in old:
            to_be_sent = needed and use.in_requests
            yield Change(f"{where} is new{' and must be sent' if to_be_sent else ''}", to_be_sent)
        else:
            if needed and not must_hold(before, key):
                yield Change(
                    f"{where} "
                    f"{'must be sent now' if use.in_requests else 'is sure to be there now'}",
                    use.in_requests,
                )
            elif must_hold(before, key) and not needed:
                yield Change(f"{where} may be missing now", use.in_answers)
            else:
                yield from _default_changes(where, old[key], new[key])
            yield from _value_changes(
                where, old[key], new[key], use, was_sure=key in before.get("required", ())
            )


def _value_changes(
    where: str, before: Node, after: Node, use: Use, *, was_sure: bool = True
) -> Iterator[Change]:
    old, new = kinds(before), kinds(after)
    if old != new:
        only_null = old | {"null"} == new | {"null"}
        null_is_safe = not (use.in_answers and was_sure) if "null" in new else not use.in_requests
        yield Change(
            f"{where} is {in_words(new)} instead of {in_words(old)}",
            not (only_null and null_is_safe),
        )


def _default_changes(where: str, before: Node, after: Node) -> Iterator[Change]:
    old, new = default_of(before), default_of(after)
    if old != new:
        yield Change(
            f"{where}: the default is {new or 'none'} instead of {old or 'none'}", old is not None
        )


def count_texts(old: Any, new: Any, *, keys_are_names: bool = False) -> int:
    """Counts the descriptions, examples and notes that differ."""
    if isinstance(old, list) and isinstance(new, list):
        return sum(count_texts(one, other) for one, other in zip(old, new, strict=False))
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return 0
    found = 0
    for key in old.keys() | new.keys():
        if not keys_are_names and (
            key in TEXTS or (key.startswith("x-") and key not in EFFECTIVE_EXTENSIONS)
        ):
            found += old.get(key) != new.get(key)
        elif key in old and key in new:
            found += count_texts(
                old[key], new[key], keys_are_names=key == "properties" and not keys_are_names
            )
    return found


# ---- the protobuf messages ----


@frozen
class Field:
    """A field of a message, or a value of an enum."""

    number: int
    type: str


Messages = Mapping[str, Mapping[str, Field]]


def messages(proto: str) -> Messages:
    """Messages and enums with what they hold. Raises `CalledProcessError` when protoc cannot read
    it.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / Path(PROTO).name, Path(folder) / "descriptors"
        source.write_text(proto)
        command = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{folder}",
            f"--descriptor_set_out={out}",
            str(source),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        [file] = FileDescriptorSet.FromString(out.read_bytes()).file
    found = {
        f"enum {enum.name}": {value.name: Field(value.number, "a value") for value in enum.value}
        for enum in file.enum_type
    }
    for message in file.message_type:
        found |= _messages_within(message, f".{file.package}." if file.package else ".", "")
    return found


def _messages_within(
    message: DescriptorProto, package: str, prefix: str
) -> dict[str, dict[str, Field]]:
    name = prefix + message.name
    maps = {
        f"{package}{name}.{entry.name}": entry
        for entry in message.nested_type
        if entry.options.map_entry
    }
    found = {
        name: {
            field.name: Field(field.number, _field_type(field, message, maps, package))
            for field in message.field
        }
    }
    found |= {
        f"enum {name}.{enum.name}": {
            value.name: Field(value.number, "a value") for value in enum.value
        }
        for enum in message.enum_type
    }
    for inner in message.nested_type:
        if not inner.options.map_entry:
            found |= _messages_within(inner, package, f"{name}.")
    return found


def _field_type(
    field: FieldDescriptorProto,
    message: DescriptorProto,
    maps: Mapping[str, DescriptorProto],
    package: str,
) -> str:
    """Returns the type of a field as the source writes it: `repeated Datum`,
    `map<string, double>`, `bytes in oneof encoding`.
    """
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map<{_bare_type(key, package)}, {_bare_type(value, package)}>"
    words = _bare_type(field, package)
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {words}"
    if field.proto3_optional:
        return f"optional {words}"
    return (
        f"{words} in oneof {message.oneof_decl[field.oneof_index].name}"
        if field.HasField("oneof_index")
        else words
    )


def _bare_type(field: FieldDescriptorProto, package: str) -> str:
    return (
        field.type_name.removeprefix(package)
        or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    )


def proto_changes(old: Messages, new: Messages) -> Iterator[Change]:
    for name in sorted(old.keys() ^ new.keys()):
        yield Change(f"{name} (protobuf) is {'gone' if name in old else 'new'}", name in old)
    for name, before, after in _in_both(old, new):
        yield from _message_changes(name, before, after)


def _message_changes(
    name: str, before: Mapping[str, Field], after: Mapping[str, Field]
) -> Iterator[Change]:
    added = {field: key for key, field in after.items() if key not in before}
    renamed = {
        key: added[field] for key, field in before.items() if key not in after and field in added
    }
    for key in sorted((before.keys() | after.keys()) - {*renamed.values()}):
        where = f"{name}.{key} (protobuf)"
        if key in renamed:
            yield Change(f"{where} is called {renamed[key]} now", False)
        elif key not in after:
            yield Change(f"{where} is gone", True)
        elif key not in before:
            yield Change(f"{where} is new", False)
        else:
            yield from _field_changes(where, before[key], after[key])


def _field_changes(where: str, before: Field, after: Field) -> Iterator[Change]:
    if before.number != after.number:
        yield Change(f"{where} has number {after.number} instead of {before.number}", True)
    if before.type != after.type:
        same_on_the_wire = before.type.removeprefix("optional ") == after.type.removeprefix(
            "optional "
        )
        yield Change(f"{where} is {after.type} instead of {before.type}", not same_on_the_wire)


# ---- the command ----


def at_revision(revision: str, path: str, root: Path) -> str:
    """Returns a file's text at a git revision. Raises `CalledProcessError` when there is none."""
    command = ["git", "show", f"{revision}:./{path}"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def changes_since(revision: str, root: Path) -> list[Change]:
    yaml = YAML(typ="safe")
    old = Contract(yaml.load(at_revision(revision, DOCUMENT, root)))
    new = Contract(yaml.load((root / DOCUMENT).read_text()))
    old_proto, new_proto = at_revision(revision, PROTO, root), (root / PROTO).read_text()
    changes = [*document_changes(old, new)]
    if old_proto != new_proto:
        changes += proto_changes(messages(old_proto), messages(new_proto))
    if texts := count_texts(old.document, new.document):
        changes.append(Change(f"{texts} descriptions, examples or notes", False))
    if not changes and (old != new or old_proto != new_proto):
        changes.append(Change("nothing that the rules look at: read `git diff`", False))
    return changes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="git revision to compare with")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree to compare")
    options = parser.parse_args(arguments)
    try:
        changes = changes_since(options.base, options.root)
    except (OSError, ValueError, YAMLError, subprocess.CalledProcessError) as error:
        message = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        print(f"cannot compare with {options.base!r}: {' '.join(message.split())}", file=sys.stderr)
        return 2
    for heading, breaks in (("breaks clients", True), ("safe", False)):
        if lines := [change.text for change in changes if change.breaks is breaks]:
            print(f"{heading}:", *lines, sep="\n  ")
    if not changes:
        print("the contract is the same")
    return 1 if any(change.breaks for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
