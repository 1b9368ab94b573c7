"""Reads the files of a LoRA adapter, as peft writes them, without the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

T = TypeVar("T")

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_MAX_TABLE = 64 << 20  # bytes


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the adapter's settings. Raises `OSError`, and `ValueError` where the file is not a
    JSON object.
    """
    return _object((folder / CONFIG_FILE).read_bytes(), "JSON object")


def tensor_names(folder: Path) -> list[str]:
    """Returns the names of the weights. Raises `OSError`, and `ValueError` where the file is not a
    safetensors file.

    Such a file begins with the size of a JSON table of the tensors, and the table:
    https://github.com/huggingface/safetensors#format
    """
    with (folder / WEIGHTS_FILE).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MAX_TABLE:
            raise ValueError("it is not a safetensors file")
        return [*_object(file.read(size), "safetensors file")]


def _object(text: bytes, kind: str) -> dict[str, Any]:
    try:
        value: object = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is not a {kind}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"it is not a {kind}")
    return cast("dict[str, Any]", value)


def read_if_valid(read: Callable[[Path], T], folder: Path) -> T | None:
    """Returns what `read` returns; None where the file is missing or malformed."""
    try:
        return read(folder)
    except (FileNotFoundError, ValueError):
        return None
