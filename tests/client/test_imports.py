"""An import of tinkex loads few modules, held by name here: time differs between machines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Set

import pytest

_HTTP = ("httpx", "httpcore", "aiohttp", "http.client", "urllib.request", "anyio", "tenacity")
_RESULT = "tinkex_api.models.checkpoint"
_DATA = ("numpy", "tokenizers", "huggingface_hub", "google.protobuf", _RESULT)
_TERMINAL = ("rich", "click", "pygments")
_CLIENTS = ("tinkex.transport", "tinkex.session", "tinkex.training", "tinkex.sampling")


def imported_by(statement: str) -> Set[str]:
    """Returns the modules that a new process has imported after the statement."""
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import tinkex", ("attrs", "asyncio", *_HTTP, *_DATA, *_TERMINAL)),
        ("from tinkex import ServiceClient", (*_HTTP, *_DATA, *_TERMINAL, *_CLIENTS)),
        ("from tinkex import AsyncServiceClient", (*_HTTP, *_DATA, *_TERMINAL, *_CLIENTS)),
        (
            "from tinkex import AdamParams, Datum, ModelInput, SamplingParams",
            (*_HTTP, *_TERMINAL, *_CLIENTS, _RESULT, "tokenizers"),
        ),
        ("import tinkex.types", (*_HTTP, *_DATA, *_TERMINAL)),
        ("from tinkex.errors import *", (*_HTTP, *_DATA, *_TERMINAL)),
        (
            "from tinkex.cli import main\nmain(['--help'], standalone_mode=False)",
            ("attrs", "asyncio", "rich", *_HTTP, *_DATA),
        ),
    ],
)
def test_nothing_is_imported_that_the_names_do_not_need(
    statement: str, unwanted: Collection[str]
) -> None:
    assert imported_by(statement).isdisjoint(unwanted)


def test_every_public_name_is_there_although_it_is_imported_late() -> None:
    names = imported_by(
        "import tinkex, tinkex.types\n"
        "for module in (tinkex, tinkex.types):\n"
        "    for name in dir(module):\n"
        "        assert getattr(module, name) is getattr(module, name)\n"
        "    exec(f'from {module.__name__} import *')\n"
        "    assert set(dir(module)) <= set(locals())"
    )
    assert "tinkex.sync.service" in names


def test_a_type_is_the_same_wherever_it_is_imported_from() -> None:
    from tinkex_api.models import AdamParams

    import tinkex
    import tinkex.types
    from tinkex.types.datum import Datum

    assert tinkex.Datum is tinkex.types.Datum is Datum
    assert tinkex.AdamParams is tinkex.types.AdamParams is AdamParams


def test_a_name_that_is_not_there_is_named() -> None:
    import tinkex.types

    with pytest.raises(AttributeError, match=r"'tinkex\.types' has no attribute 'Datums'"):
        tinkex.types.Datums  # noqa: B018
