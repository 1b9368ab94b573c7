"""`describe`: what a base model is, by the small files beside its weights: known at once, with no
torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tinkex_server.engine.interface import InvalidRequest, ModelInfo
from tinkex_server.engine.model_kinds import check_kind, context_length, text_config

SHIPPED = {"tinkex/tiny": Path(__file__).parents[2] / "tinkex" / "tiny"}
"""The folders of the models inside this package, by name."""

_CONFIG, _TOKENIZER, _TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"


def describe(spec: str) -> ModelInfo:
    """The model of a shipped name, a transformers folder or a hub id, or of `NAME=` and one of
    these. Its weights are not looked at.

    Raises `InvalidRequest` when there is none, its config.json does not say what is needed, or it
    is of a kind that is not served.
    """
    name, source = name_and_source(spec)
    try:
        folder = _folder(source)
        config = _read(folder / _CONFIG)
    # a ValueError: it is no such file, or the name is none that the hub could know
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"cannot find the model {spec!r}: {error}") from error
    check_kind(name, config)
    longest, note = context_length(name, config)
    tokenizer, tokenizer_config = tokenizer_files(folder)
    return ModelInfo(
        name=name,
        max_context_length=longest,
        vocab_size=_field(name, text_config(config), "vocab_size"),
        arch=_field(name, config, "architectures")[0],
        tokenizer_id=name,
        tokenizer_json=tokenizer,
        tokenizer_config_json=tokenizer_config,
        context_note=note,
        folder=local_folder(source),
    )


def name_and_source(spec: str) -> tuple[str, str]:
    """Returns what programs call a model, and what it is loaded by, of `NAME=SOURCE` or of one that
    stands for both.

    Raises `InvalidRequest` where one of the two is empty.
    """
    if "=" not in spec or Path(spec).is_dir():
        return spec, spec
    name, _, source = spec.partition("=")
    if not name or not source:
        raise InvalidRequest(f"{spec!r} is no model: write NAME=FOLDER, or the folder alone")
    return name, source


def local_folder(source: str) -> str | None:
    """Returns the whole path of the folder of a shipped name or of a folder; None for a hub id."""
    folder = SHIPPED.get(source, Path(source))
    return str(folder.resolve()) if folder.is_dir() else None


def check_names(specs: Sequence[str]) -> None:
    """Raises `InvalidRequest` for two models of one name."""
    names = [name_and_source(spec)[0] for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"there are several models of the name {twice[0]!r}")


def tokenizer_files(folder: Path) -> tuple[str | None, str | None]:
    """Returns the texts of a tokenizer and its configuration; some old models have but the files
    that transformers makes one of.
    """
    return _text(folder / _TOKENIZER), _text(folder / _TOKENIZER_CONFIG)


def _text(file: Path) -> str | None:
    return file.read_text("utf-8") if file.is_file() else None


def loadable_name(spec: str) -> str:
    """Returns what transformers and peft load the model by, on this machine: the path of its
    folder, or its hub id.
    """
    _, source = name_and_source(spec)
    return local_folder(source) or source


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
    """Where a model's small files are on this disk. Raises `OSError` or `ValueError` when there are
    none.
    """
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
