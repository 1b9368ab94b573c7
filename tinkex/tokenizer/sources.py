"""The places in which a tokenizer may be found, and the search through them in order."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from tinkex.errors import TinkexError
from tinkex.tokenizer.files import TOKENIZER, TokenizerFiles
from tinkex.tokenizer.shared_loads import AbandonedLoad
from tinkex.tokenizer.tokenizer import Tokenizer

SHIPPED = {"tinkex/tiny": Path(__file__).parents[1] / "tiny" / "tokenizer.json"}
"""The tokenizers inside this package, by the name of their model."""

_log = logging.getLogger(__name__)
_HUB = "https://huggingface.co"
# seconds in which the hub must answer; without a network, its library would retry for 25 seconds
_QUICK = 3.0
_LLAMA_3, _OPEN_LLAMA_3 = "meta-llama/Llama-3", "thinkingmachineslabinc/meta-llama-3-tokenizer"
"""Models whose repositories are gated, and an open repository with the same tokenizer."""


class TokenizerError(TinkexError):
    """A tokenizer that was not found or cannot be read.

    `tried` lists the places of the search in order, each with its outcome.
    """

    fault = "user"

    def __init__(self, message: str, *, tried: tuple[str, ...] = (), **facts: Any) -> None:
        super().__init__(
            "".join((message, *(f"\n  {number}. {line}" for number, line in enumerate(tried, 1)))),
            **facts,
        )
        self.tried = tried


class NotThere(Exception):
    """The absence of a tokenizer in one place; the message says why."""


@frozen
class Place:
    """A place in which a tokenizer may be found.

    `look` returns the tokenizer's files or raises `NotThere`, or `AbandonedLoad` if its caller is
    gone. Any other error means that the files exist and are malformed.
    """

    where: str
    look: Callable[[], TokenizerFiles]


def first(name: str, places: Iterator[Place]) -> Tokenizer:
    """Returns the tokenizer of the first place that has one.

    Raises:
        TokenizerError: no place has one, or the first one found is malformed.
    """
    tried: list[str] = []
    for place in places:
        try:
            return Tokenizer.over(name, place.look())
        except NotThere as absent:
            tried.append(f"{place.where}: {absent}")
        except AbandonedLoad:
            raise
        except Exception as error:
            tried.append(f"{place.where}: {error}")
            raise TokenizerError(
                f"the tokenizer for {name!r} cannot be read:",
                tried=tuple(tried),
                advice="Repair or replace these files.",
            ) from error
    raise TokenizerError(
        f"no tokenizer for {name!r} was found; the places searched were:",
        tried=tuple(tried),
        advice=(
            "Pass a folder with a tokenizer.json (save_pretrained of transformers writes one), or "
            "the model's id on the hub. Set HF_TOKEN for a gated model, HF_ENDPOINT for a mirror."
        ),
    )


def here(name: str) -> Iterator[Place]:
    """Yields the places that need no network."""
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
    """Returns a tokenizer.json, with access to the other files through `beside`."""

    def read(name: str) -> str | None:
        path = beside(name)
        return path.read_text("utf-8") if path is not None and path.is_file() else None

    return TokenizerFiles(tokenizer.read_text("utf-8"), read)


def _from_hub(endpoint: str, repository: str, revision: str, token: str | None) -> TokenizerFiles:
    """Returns files of the hub, fetched by its library, or from its cache without a network."""
    # Imported here, because the import takes a second.
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
        _log.warning("cannot read the special tokens in %s of %s: %s", name, repository, reason)
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
            f"{trouble or error}, and the tokenizer is not in the local cache"
        ) from error
    except EntryNotFoundError as error:
        raise NotThere(f"the repository has no {TOKENIZER}") from error
    except Exception as error:  # The HTTP library that the hub uses may raise errors of its own.
        raise NotThere(
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        ) from error


def _unreachable(url: str) -> str | None:
    """Returns why the hub is unreachable, or None if it answers."""
    import httpx  # here, because the import is slow

    try:
        httpx.head(url, timeout=_QUICK)
    except httpx.HTTPError as error:
        return f"no answer ({error})"
    except httpx.InvalidURL as error:
        return str(error)
    return None
