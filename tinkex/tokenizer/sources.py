"""Where a tokenizer may be: places that are looked at in order, each of which has it or says why
not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from attrs import frozen

from tinkex.errors import TinkexError
from tinkex.tokenizer.files import TOKENIZER, TokenizerFiles
from tinkex.tokenizer.tokenizer import Tokenizer

SHIPPED = {"tinkex/tiny": Path(__file__).parents[1] / "tiny" / "tokenizer.json"}
"""The tokenizers inside this package, by the name of their model."""

_log = logging.getLogger(__name__)
_HUB = "https://huggingface.co"
# seconds in which the hub must answer at all: without a network its own library would try for 25
_QUICK = 3.0
_LLAMA_3, _OPEN_LLAMA_3 = "meta-llama/Llama-3", "thinkingmachineslabinc/meta-llama-3-tokenizer"
"""Models whose repositories want an agreement, and one that has their tokenizer for all."""


class TokenizerError(TinkexError):
    """A tokenizer cannot be had. `tried` says where it was looked for, in order, and what came of
    it.
    """

    fault = "user"

    def __init__(self, message: str, *, tried: tuple[str, ...] = (), **facts: Any) -> None:
        super().__init__(
            "".join((message, *(f"\n  {number}. {line}" for number, line in enumerate(tried, 1)))),
            **facts,
        )
        self.tried = tried


class NotThere(Exception):
    """A place does not have it; the text says why."""


@frozen
class Place:
    """`look` gives the tokenizer's files, or raises `NotThere`; another error means that it is
    there and broken.
    """

    where: str
    look: Callable[[], TokenizerFiles]


def first(name: str, places: Iterator[Place]) -> Tokenizer:
    """The tokenizer of the first place that has one.

    Raises:
        TokenizerError: none has, or the first one that has it is broken.
    """
    tried: list[str] = []
    for place in places:
        try:
            return Tokenizer.over(name, place.look())
        except NotThere as absent:
            tried.append(f"{place.where}: {absent}")
        except Exception as error:
            tried.append(f"{place.where}: {error}")
            raise TokenizerError(
                f"the tokenizer for {name!r} cannot be read:",
                tried=tuple(tried),
                advice="Repair it.",
            ) from error
    raise TokenizerError(
        f"no tokenizer for {name!r}; it was looked for in these places:",
        tried=tuple(tried),
        advice="Give a folder that holds a tokenizer.json (transformers writes it by save_pretrained), or the model's id on the hub: "
        "HF_TOKEN for one that wants an agreement, HF_ENDPOINT for a mirror.",
    )


def here(name: str) -> Iterator[Place]:
    """Those that need no network."""
    if name in SHIPPED:
        yield Place("with tinkex", lambda: _from_disk(SHIPPED[name]))
    yield Place(f"the folder or file {name}", lambda: _from_disk(Path(name)))


def hub(name: str, revision: str | None, token: str | None) -> Iterator[Place]:
    endpoint = (os.environ.get("HF_ENDPOINT", "").strip() or _HUB).rstrip("/")
    for repository in (name, *([_OPEN_LLAMA_3] if name.startswith(_LLAMA_3) else [])):
        yield Place(
            f"{endpoint}/{repository}",
            lambda at=repository: _from_hub(endpoint, at, revision or "main", token),
        )


def _from_disk(path: Path) -> TokenizerFiles:
    path = path / TOKENIZER if path.is_dir() else path
    if not path.is_file():
        raise NotThere(f"there is no {path}")
    return _files(path, lambda name: path.with_name(name))


def _files(tokenizer: Path, beside: Callable[[str], Path | None]) -> TokenizerFiles:
    """Returns a tokenizer.json with the files that `beside` finds by their names."""

    def read(name: str) -> str | None:
        path = beside(name)
        return path.read_text("utf-8") if path is not None and path.is_file() else None

    return TokenizerFiles(tokenizer.read_text("utf-8"), read)


def _from_hub(endpoint: str, repository: str, revision: str, token: str | None) -> TokenizerFiles:
    """By its library, which keeps what it has fetched; without a network from what it keeps."""
    # here, since it takes a second to import
    from huggingface_hub import constants, hf_hub_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    trouble = None

    def fetch(name: str) -> Path:
        local = trouble is not None
        path = hf_hub_download(
            repository,
            name,
            revision=revision,
            token=token,
            endpoint=endpoint,
            local_files_only=local,
        )
        return Path(path)

    def beside(name: str) -> Path | None:
        try:
            return fetch(name)
        except LocalEntryNotFoundError as error:
            reason = trouble or error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, OSError) as error:
            reason = error
        _log.warning(
            "what %s says of the special tokens of %s is unknown: %s", name, repository, reason
        )
        return None

    try:
        validate_repo_id(repository)
        trouble = (
            "HF_HUB_OFFLINE is set"
            if constants.HF_HUB_OFFLINE
            else _unreachable(f"{endpoint}/{repository}")
        )
        return _files(fetch(TOKENIZER), beside)
    except LocalEntryNotFoundError as error:
        raise NotThere(
            f"{trouble or error}, and it is not among the files fetched before"
        ) from error
    except EntryNotFoundError as error:
        raise NotThere(f"the repository has no {TOKENIZER}") from error
    except Exception as error:  # of whichever library speaks HTTP there
        raise NotThere(
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        ) from error


def _unreachable(url: str) -> str | None:
    """Why the hub gives no answer at all; None where it does."""
    try:
        httpx.head(url, timeout=_QUICK)
    except httpx.HTTPError as error:
        return f"no answer from there ({error})"
    except httpx.InvalidURL as error:
        return str(error)
    return None
