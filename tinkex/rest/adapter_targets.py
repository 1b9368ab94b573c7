"""The modules that a downloaded adapter changes, where its settings do not name them: peft would take some of its own for all.

SkyRL 0.3 writes `target_modules: null`. peft then loads the usual two of a kind of model and drops the weights of all others, without a
word.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

logger = logging.getLogger("tinkex")

_MOST = 64 << 20  # bytes of the table of tensors
_LORA = ".lora_A."


def name_targets(folder: Path) -> None:
    """Writes into adapter_config.json the modules that the weights beside it are for, unless it names some. Raises `OSError`."""
    settings = _object(folder / "adapter_config.json")
    if settings is None or settings.get("target_modules") or settings.get("target_parameters"):
        return
    names = _tensors(folder / "adapter_model.safetensors")
    modules = sorted(
        {name.partition(_LORA)[0].rpartition(".")[2] for name in names if _LORA in name}
    )
    if not modules:
        return
    (folder / "adapter_config.json").write_text(
        json.dumps({**settings, "target_modules": modules}, indent=2), encoding="utf-8"
    )
    logger.warning(
        "the server's adapter_config.json names no target_modules, so that peft would drop weights; those of the weights were added: %s",
        ", ".join(modules),
    )


def _object(path: Path) -> dict[str, Any] | None:
    try:
        return _as_object(path.read_bytes())
    except FileNotFoundError:
        return None


def _tensors(path: Path) -> list[str]:
    """The names of the tensors in a file of safetensors: it begins with the size of a JSON table, and that. None are in another file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            table = _as_object(file.read(size)) if size <= _MOST else None
    except FileNotFoundError:
        return []
    return list(table or ())


def _as_object(text: bytes) -> dict[str, Any] | None:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
