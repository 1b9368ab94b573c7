"""Suggestions for ids and names that the server does not know."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure
from tinkex.errors import APIStatusError, NotFoundError, UnsupportedByServer


@contextmanager
def suggesting(
    what: str, name: str, known: Callable[[], Iterable[str]], hint: str
) -> Generator[None]:
    """Turns a `NotFoundError` into a failure that names what is like the name, if anything is.

    Args:
        what: the kind of thing, such as "training run".
        name: its name, as given.
        known: returns the names that there are; called only after the error.
        hint: the command that lists them.
    """
    try:
        yield
    except NotFoundError as error:
        raise not_found(what, name, _listed(known), hint, error.request_id) from error


def not_found(
    what: str, name: str, known: Iterable[str], hint: str, request_id: str | None = None
) -> Failure:
    """Returns the failure for a thing that does not exist."""
    near = nearest(name, known)
    meant = f". Did you mean {near}?" if near else ""
    return Failure(
        f"there is no {what} {name}{meant}",
        code=ExitCode.NOT_FOUND,
        hint=hint,
        request_id=request_id,
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that is most like the given one, whole or after its last slash."""
    forms: dict[str, str] = {}
    for one in known:
        forms.setdefault(one.lower(), one)
        forms.setdefault(one.lower().rpartition("/")[2], one)
    found = difflib.get_close_matches(name.lower(), list(forms), n=1)
    return forms[found[0]] if found else None


def _listed(known: Callable[[], Iterable[str]]) -> list[str]:
    """Returns the names, or none where the server does not list them."""
    try:
        return list(known())
    except (APIStatusError, UnsupportedByServer):
        return []
