"""Descriptions of base models, from the small files beside their weights; no torch is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tinkex_server.engine.interface import InvalidRequest, ModelInfo
from tinkex_server.engine.model_kinds import check_kind, context_length, text_config

SHIPPED = {"tinkex/tiny": Path(__file__).parents[2] / "tinkex" / "tiny"}
"""The folders of the models that come with tinkex, by name."""

_CONFIG, _TOKENIZER, _TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"


def describe(spec: str) -> ModelInfo:
    """Returns the description of a model, given by shipped name, transformers folder or hub id, or
    as `NAME=` and one of these. The weights are not read.

    Raises `InvalidRequest` if the model is not found, is of an unsupported kind, or if its
    config.json lacks a required field.
    """
    name, source = name_and_source(spec)
    try:
        folder = _folder(source)
        config = _read(folder / _CONFIG)
        tokenizer, tokenizer_config = tokenizer_files(folder)
    # a ValueError: the file is not valid JSON, or the name is not a valid hub id
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"cannot find the model {spec!r}: {error}") from error
    check_kind(name, config)
    longest, note = context_length(name, config)
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
    """Returns the name that programs use for a model and the source that it is loaded from, given
    `NAME=SOURCE`, or one string that is both.

    Raises `InvalidRequest` if one of the two is empty.
    """
    if "=" not in spec or Path(spec).is_dir():
        return spec, spec
    name, _, source = spec.partition("=")
    if not name or not source:
        raise InvalidRequest(
            f"{spec!r} does not name a model: write NAME=FOLDER, or just the folder"
        )
    return name, source


def local_folder(source: str) -> str | None:
    """Returns the absolute path of a shipped model or of a folder; None for a hub id."""
    folder = SHIPPED.get(source, Path(source))
    return str(folder.resolve()) if folder.is_dir() else None


def check_names(specs: Sequence[str]) -> None:
    """Raises `InvalidRequest` if two models have the same name."""
    names = [name_and_source(spec)[0] for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidRequest(f"two models have the name {twice[0]!r}")


def tokenizer_files(folder: Path) -> tuple[str | None, str | None]:
    """Returns the contents of tokenizer.json and tokenizer_config.json, None for a file that is
    missing, as for some old models.

    A chat template in a file of its own is put into tokenizer_config.json, the older place: clients
    get these two files, and without the template they would train on chats of another form.
    """
    settings, template = folder / _TOKENIZER_CONFIG, _text(folder / _TEMPLATE)
    if template is None:
        return _text(folder / _TOKENIZER), _text(settings)
    known: Mapping[str, Any] = _read(settings) if settings.is_file() else {}
    return _text(folder / _TOKENIZER), json.dumps({**known, "chat_template": template})


def _text(file: Path) -> str | None:
    return file.read_text("utf-8") if file.is_file() else None


def loadable_name(spec: str) -> str:
    """Returns what transformers and peft can load the model by on this machine: the path of its
    folder, or its hub id.
    """
    _, source = name_and_source(spec)
    return local_folder(source) or source


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}, which each transformers model has")
    config = json.loads(file.read_bytes())
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not a JSON object")
    return cast("dict[str, Any]", config)


def _field(name: str, config: Mapping[str, Any], key: str) -> Any:
    if config.get(key):
        return config[key]
    raise InvalidRequest(f"the {_CONFIG} of the model {name!r} lacks {key}")


def _folder(name: str) -> Path:
    """Returns the local folder of a model's small files. Raises `OSError` or `ValueError` if there
    is none.
    """
    folder = SHIPPED.get(name, Path(name))
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith("."):
        raise FileNotFoundError(f"there is no folder {folder}")
    try:
        return _fetched_folder(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no folder {folder.absolute()}, and the Hugging Face hub did not give the "
            f"model: {error}"
        ) from error


def _fetched_folder(name: str) -> Path:
    """Returns the folder of a hub model's small files, which are fetched from the hub, or taken
    from the cache if the hub cannot be reached.
    """
    # imported here, since the import takes a second
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    files = [_CONFIG, _TOKENIZER, _TOKENIZER_CONFIG, _TEMPLATE]
    return Path(snapshot_download(name, allow_patterns=files))
