"""From the name of a model to its tokenizer, each loaded once in a process."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from tinkex.tokenizer.files import TokenizerFiles
from tinkex.tokenizer.shared_loads import Loads
from tinkex.tokenizer.sources import Place, first, here, hub
from tinkex.tokenizer.tokenizer import Tokenizer

_loads: Loads[Tokenizer] = Loads()


def get_tokenizer(name: str, *, revision: str | None = None, token: str | None = None) -> Tokenizer:
    """The tokenizer of `name`: `tinkex/tiny`, a folder with a tokenizer.json, such a file itself,
    or a hub id.

    It is kept for the process, and a failure for a minute. Of a hub that does not answer within 3 s
    what was fetched before is taken.

    Args:
        revision: a branch, a tag or a commit on the hub.
        token: the hub's, by default HF_TOKEN, or what its own command has stored.

    Raises:
        TokenizerError: it is in none of these places.

    Example:
        >>> get_tokenizer("tinkex/tiny").decode([104, 105])
        'hi'
    """
    names = list(dict.fromkeys((name, *names_of_tokenizer(None, [name]))))
    return _loads.get((name, revision), lambda: first(name, _places(names, None, revision, token)))


def find_tokenizer(
    names: Sequence[str], served: tuple[str, Callable[[], TokenizerFiles]] | None = None
) -> Tokenizer:
    """The tokenizer of a model that goes by these names, the best first: from here, from its
    server, or from the hub.

    Args:
        served: where its server is, and what asks it for a tokenizer's files. May raise `NotThere`.

    Raises:
        TokenizerError: it is in none of these places.
    """
    return _loads.get(
        _key(names, served), lambda: first(names[0], _places(names, served, None, None))
    )


def names_of_tokenizer(
    tokenizer_id: str | None, model_names: Sequence[str | None]
) -> Sequence[str]:
    """The names that a model's tokenizer may go by, the best first. What follows a `:` is a variant
    of the model.
    """
    names = [name.partition(":")[0] for name in (tokenizer_id, *model_names) if name]
    return list(dict.fromkeys(names))


def loaded_tokenizer(
    names: Sequence[str], served: tuple[str, Callable[[], TokenizerFiles]] | None
) -> Tokenizer | None:
    """What `find_tokenizer` has given before; does not wait."""
    return _loads.ready(_key(names, served))


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
