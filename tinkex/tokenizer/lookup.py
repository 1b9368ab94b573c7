"""The lookup of tokenizers by the name of a model. Each is loaded once in a process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import cast

from tinkex.tokenizer.files import TokenizerFiles
from tinkex.tokenizer.shared_loads import Loads
from tinkex.tokenizer.sources import Place, first, here, hub
from tinkex.tokenizer.tokenizer import Tokenizer

_loads: Loads[Tokenizer] = Loads()


def get_tokenizer(name: str, *, revision: str | None = None, token: str | None = None) -> Tokenizer:
    """Returns the tokenizer of a model.

    The tokenizer is cached in the process, and a failure for a minute. If the hub does not answer
    within 3 seconds, the files in its local cache are used.

    Args:
        name: `tinkex/tiny`, the path of a folder with a tokenizer.json, the path of such a file, or
            a hub id.
        revision: a branch, a tag or a commit on the hub.
        token: an access token of the hub; by default HF_TOKEN, else the token of a hub login.

    Raises:
        TokenizerError: the tokenizer is in none of these places, or its files are malformed.

    Example:
        >>> get_tokenizer("tinkex/tiny").decode([104, 105])
        'hi'
    """
    names = list(dict.fromkeys((name, *names_of_tokenizer(None, [name]))))
    return _loads.get((name, revision), lambda: first(name, _places(names, None, revision, token)))


def find_tokenizer(
    names: Sequence[str], served: tuple[str, Callable[[], TokenizerFiles]] | None = None
) -> Tokenizer:
    """Returns the tokenizer of a model from this machine, from its server, or from the hub.

    Args:
        names: the names of the model, the most specific first.
        served: the URL of the server, and a function that fetches the tokenizer's files from it;
            the function may raise `NotThere`.

    Raises:
        TokenizerError: the tokenizer is in none of these places, or its files are malformed.
    """
    return _loads.get(
        _key(names, served), lambda: first(names[0], _places(names, served, None, None))
    )


def names_of_tokenizer(
    tokenizer_id: str | None, model_names: Sequence[str | None]
) -> Sequence[str]:
    """Returns the names under which a model's tokenizer may be found, the most specific first.

    A suffix after `:` names a variant of the model and is removed.
    """
    names = [name.partition(":")[0] for name in (tokenizer_id, *model_names) if name]
    return list(dict.fromkeys(names))


def loaded_tokenizer(
    names: Sequence[str], served: tuple[str, Callable[[], TokenizerFiles]] | None
) -> Tokenizer | None:
    """Returns the tokenizer if `find_tokenizer` has already loaded it, or None."""
    return _loads.ready(_key(names, served))


def known_tokenizer(name: str) -> Tokenizer | None:
    """Returns a tokenizer that this process has loaded under the name of a model, or None."""
    for key, loaded in _loads.all_ready():
        names = cast("tuple[object, ...]", key)[0]
        if name == names or (isinstance(names, tuple) and name in names):
            return loaded
    return None


def _key(names: Sequence[str], served: tuple[str, Callable[[], TokenizerFiles]] | None) -> Hashable:
    return (tuple(names), served and served[0])


def _places(
    names: Sequence[str],
    served: tuple[str, Callable[[], TokenizerFiles]] | None,
    revision: str | None,
    token: str | None,
) -> Iterator[Place]:
    for name in names:
        yield from here(name)
    if served is not None:
        where, ask = served
        yield Place(where, ask)
    for name in names:
        yield from hub(name, revision, token)
