"""tinkex shares a process with a package that has the official SDK's protobuf file, whichever is
imported first.

The official SDK itself is there in tests/official/both_packages.py, by `make test-clients`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from tinkex_proto import tinker_pb2

OTHERS = """
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
file = FileDescriptorProto.FromString(bytes.fromhex("{}"))
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
"""
OURS = """
from tinkex_proto import tinker_pb2
assert tinker_pb2.StopReason.Value("STOP_REASON_LENGTH") == 1
assert tinker_pb2.Datum.FromString(tinker_pb2.Datum().SerializeToString()) == tinker_pb2.Datum()
"""


def official_file(name: str) -> str:
    """Returns code that registers a file of this name with the official package and our
    messages.
    """
    file = FileDescriptorProto()
    tinker_pb2.DESCRIPTOR.CopyToProto(file)
    ours = f".{file.package}."
    file.name, file.package = name, "tinker_public"
    for field in (field for field in _fields(file.message_type) if field.type_name):
        field.type_name = field.type_name.replace(ours, ".tinker_public.")
    return OTHERS.format(file.SerializeToString().hex())


def _fields(messages: Iterable[DescriptorProto]) -> Iterator[FieldDescriptorProto]:
    for message in messages:
        yield from message.field
        yield from _fields(message.nested_type)


@pytest.mark.parametrize("name", ["tinker_public.proto", "tinker.proto"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_the_official_file_may_be_there_before_or_after(name: str, ours_first: bool) -> None:
    parts = [OURS, official_file(name)]
    code = "".join(parts if ours_first else parts[::-1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
