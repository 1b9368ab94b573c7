"""`describe`: what a base model is, by the small files beside its weights: known at once, with no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tinkex.local.engine.base import BaseModel, InvalidRequest
from tinkex.local.engine.kinds import context, of_text, refuse_kinds

SHIPPED = {"tinkex/tiny": Path(__file__).parents[2] / "tiny"}
"""The folders of the models inside this package, by name."""

_CONFIG, _TOKENIZER, _TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"


def describe(name: str) -> BaseModel:
    """The model of a shipped name, a transformers folder or a hub id. Its weights are not looked at.

    Raises `InvalidRequest` when there is none, its config.json does not say what is needed, or it is of a kind that is not served.
    """
    try:
        folder = _folder(name)
        config = _read(folder / _CONFIG)
    except (OSError, ValueError) as error:  # a ValueError: it is no such file, or the name is none that the hub could know
        raise InvalidRequest(f"cannot find the model {name!r}: {error}") from error
    refuse_kinds(name, config)
    longest, note = context(name, config)
    return BaseModel(
        name=name,
        max_context_length=longest,
        vocab_size=_field(name, of_text(config), "vocab_size"),
        arch=_field(name, config, "architectures")[0],
        tokenizer_id=name,
        tokenizer_json=_text(folder / _TOKENIZER),  # some old models have but the files that transformers makes one of
        tokenizer_config_json=_text(folder / _TOKENIZER_CONFIG),
        context_note=note,
    )


def _text(file: Path) -> str | None:
    return file.read_text("utf-8") if file.is_file() else None


def loadable_name(name: str) -> str:
    """Returns what transformers and peft load the model by, on this machine: the path of its folder, or its hub id."""
    folder = SHIPPED.get(name, Path(name))
    return str(folder.resolve()) if folder.is_dir() else name


def _read(file: Path) -> Mapping[str, Any]:
    config = json.loads(file.read_bytes())
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds no JSON object")
    return cast("dict[str, Any]", config)


def _field(name: str, config: Mapping[str, Any], key: str) -> Any:
    if config.get(key):
        return config[key]
    raise InvalidRequest(f"the {_CONFIG} of the model {name!r} has no {key}")


def _folder(name: str) -> Path:
    """Where a model's small files are on this disk. Raises `OSError` or `ValueError` when there are none."""
    folder = SHIPPED.get(name, Path(name))
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith("."):
        raise FileNotFoundError(f"there is no folder {folder}")
    # here, since it takes a second to import
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    return Path(
        snapshot_download(name, allow_patterns=[_CONFIG, _TOKENIZER, _TOKENIZER_CONFIG])
    )  # without the hub, what was fetched before
