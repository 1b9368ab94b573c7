"""Downloading a checkpoint: all of it in its folder, or nothing."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from attrs import define, field

from tinkex.errors import CheckpointDownloadError, InvalidInputError, TinkexError
from tinkex.rest.archives import UrlTable, open_archive
from tinkex.rest.checkpoint_place import CheckpointPlace
from tinkex.rest.extraction import Limits, unpack
from tinkex.rest.fetching import fetch
from tinkex.rest.names import Names
from tinkex.rest.parts import Part
from tinkex.threads import in_thread
from tinkex.transport.http import Transport
from tinkex.types.checkpoint_path import EXTERNAL_WEIGHTS

Progress = Callable[[int, int | None], object]
"""Is given how many bytes came, and how many there are in all, None while that is not known."""

LIMITS = Limits()
_ODD = re.compile(r"[^\w.-]")


def folder_name(tinker_path: str) -> str:
    """`tinker://S1:train:0/weights/0001` goes to `S1_train_0_weights_0001`."""
    return _ODD.sub("_", tinker_path.partition("://")[2])


async def download(transport: Transport, place: CheckpointPlace, target: Path, *, force: bool, progress: Progress | None) -> Path:
    """Fetches a checkpoint to the folder `target`, which it then gives back.

    All is done in a temporary folder beside it, which is renamed in the end, and removed whatever happens.
    """
    fetch_content = _fetch_files if place.kind == EXTERNAL_WEIGHTS else _fetch_archive
    try:
        work = await in_thread(_begin, target, force)
        try:
            await fetch_content(transport, place, work / "checkpoint", _Meter(progress))
            _put(work / "checkpoint", target, work / "replaced")
        finally:
            shutil.rmtree(work, ignore_errors=True)  # at once: what is awaited here could be cancelled
    except TinkexError:  # a WaitTimeoutError is an OSError, too
        raise
    except OSError as error:
        raise CheckpointDownloadError(f"the checkpoint cannot be written to {target}: {error}") from error
    return target


@define(eq=False)
class _Meter:
    """Tells the user how far it is."""

    progress: Progress | None
    parts: list[Part] = field(factory=list[Part])

    def tell(self) -> None:
        if self.progress is not None:
            totals = [part.total for part in self.parts if part.total is not None]
            self.progress(sum(part.size for part in self.parts), sum(totals) if len(totals) == len(self.parts) else None)


async def _fetch_archive(transport: Transport, place: CheckpointPlace, content: Path, meter: _Meter) -> None:
    part = Part(content.with_name("archive.tar"))
    meter.parts.append(part)
    await fetch(transport, partial(open_archive, transport, place), part, meter.tell)
    await _unpack(part.path, content)


async def _fetch_files(transport: Transport, place: CheckpointPlace, content: Path, meter: _Meter) -> None:
    table = UrlTable(transport, place)
    await table.sign()
    if len(table.urls) > LIMITS.max_files:
        raise CheckpointDownloadError(f"the checkpoint has {len(table.urls)} files; at most {LIMITS.max_files} are taken")
    if not table.urls:
        raise CheckpointDownloadError("the checkpoint has no files")
    names = Names()
    parts = {name: Part(content / names.safe(name)) for name in table.urls}
    meter.parts += parts.values()
    for name, part in parts.items():
        part.path.parent.mkdir(parents=True, exist_ok=True)
        await fetch(transport, partial(table.open, name), part, meter.tell)


async def _unpack(archive: Path, content: Path) -> None:
    """In a thread, which is over when this is: nothing is written any more to what is then removed."""
    off = threading.Event()
    unpacking = asyncio.ensure_future(in_thread(unpack, archive, content, LIMITS, off.is_set))
    try:
        await asyncio.shield(unpacking)
    except asyncio.CancelledError:
        off.set()
        while not unpacking.done():  # however often it is cancelled meanwhile
            with suppress(asyncio.CancelledError):
                await asyncio.wait([unpacking])
        raise


def _begin(target: Path, force: bool) -> Path:
    """A temporary folder beside the target."""
    if target.exists() and not force:
        raise InvalidInputError(f"{target} exists already", advice="Give force=True to replace it, or another output_dir.")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".tinkex-download-", dir=target.parent))
    (work / "checkpoint").mkdir()
    return work


def _put(content: Path, target: Path, replaced: Path) -> None:
    """Renames; what is there is moved out of the way, and back if that fails."""
    if not target.exists():
        content.rename(target)
        return
    target.rename(replaced)
    try:
        content.rename(target)
    except OSError:
        replaced.rename(target)
        raise
