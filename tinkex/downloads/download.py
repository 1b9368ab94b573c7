"""Downloading a checkpoint: all of it in its folder, or nothing."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from attrs import define, field

from tinkex.claimed_folder import ClaimedFolder, claim_orphans
from tinkex.downloads.adapter_targets import name_targets
from tinkex.downloads.extract import Limits, unpack
from tinkex.downloads.fetch import fetch
from tinkex.downloads.partial_file import Part
from tinkex.downloads.safe_names import Names
from tinkex.downloads.sources import UrlTable, open_archive
from tinkex.errors import CheckpointDownloadError, InvalidInputError, TinkexError
from tinkex.threads import in_thread
from tinkex.transport.transport import Transport
from tinkex.types.checkpoint_address import CheckpointAddress
from tinkex.types.checkpoint_path import EXTERNAL_WEIGHTS

logger = logging.getLogger("tinkex")

Progress = Callable[[int, int | None], object]
"""Is given how many bytes came, and how many there are in all, None while that is not known."""

LIMITS = Limits()
TIED_NOTE = "TIED_EMBEDDINGS.md"
"""A file that the embedded server adds to adapters that peft cannot merge."""
_PREFIX, _REPLACED = ".tinkex-download-", "replaced"
_ODD = re.compile(r"[^\w.-]")


def folder_name(tinker_path: str) -> str:
    """`tinker://S1:train:0/weights/0001` goes to `S1_train_0_weights_0001`."""
    return _ODD.sub("_", tinker_path.partition("://")[2])


async def download(
    transport: Transport,
    place: CheckpointAddress,
    target: Path,
    *,
    force: bool,
    progress: Progress | None,
) -> Path:
    """Fetches a checkpoint to the folder `target`, which it then gives back.

    All is done in a temporary folder beside it, which is renamed in the end, and removed whatever
    happens; the one that a process left which was killed is removed by the next download to the
    same target.
    """
    fetch_content = _fetch_files if place.kind == EXTERNAL_WEIGHTS else _fetch_archive
    try:
        folder = await in_thread(_begin, target, force)
        work = folder.path
        try:
            await fetch_content(transport, place, work / "checkpoint", _Meter(progress))
            name_targets(work / "checkpoint")
            _put(work / "checkpoint", target, work / _REPLACED)
        finally:
            folder.remove()  # at once: what is awaited here could be cancelled
    except TinkexError:  # a WaitTimeoutError is an OSError, too
        raise
    except OSError as error:
        raise CheckpointDownloadError(
            f"the checkpoint cannot be written to {target}: {error}"
        ) from error
    if (target / TIED_NOTE).is_file():
        logger.warning(
            "%s is an adapter on the output layer of a model whose embeddings are tied: it is "
            "exact as it is, but peft's merge_and_unload "
            "would change the input embeddings, too. To merge it, use python -m "
            "tinkex.local.merge %s OUTPUT",
            target,
            target,
        )
    return target


@define(eq=False)
class _Meter:
    """Tells the user how far it is."""

    progress: Progress | None
    parts: list[Part] = field(factory=list[Part])

    def tell(self) -> None:
        if self.progress is not None:
            totals = [part.total for part in self.parts if part.total is not None]
            self.progress(
                sum(part.size for part in self.parts),
                sum(totals) if len(totals) == len(self.parts) else None,
            )


async def _fetch_archive(
    transport: Transport, place: CheckpointAddress, content: Path, meter: _Meter
) -> None:
    part = Part(content.with_name("archive.tar"))
    meter.parts.append(part)
    await fetch(transport, partial(open_archive, transport, place), part, meter.tell)
    await _unpack(part.path, content)


async def _fetch_files(
    transport: Transport, place: CheckpointAddress, content: Path, meter: _Meter
) -> None:
    table = UrlTable(transport, place)
    await table.sign()
    if len(table.urls) > LIMITS.max_files:
        raise CheckpointDownloadError(
            f"the checkpoint has {len(table.urls)} files; at most {LIMITS.max_files} are taken"
        )
    if not table.urls:
        raise CheckpointDownloadError("the checkpoint has no files")
    names = Names()
    parts = {name: Part(content / names.safe(name)) for name in table.urls}
    meter.parts += parts.values()
    for name, part in parts.items():
        part.path.parent.mkdir(parents=True, exist_ok=True)
        await fetch(transport, partial(table.open, name), part, meter.tell)


async def _unpack(archive: Path, content: Path) -> None:
    """In a thread, which is over when this is: nothing is written any more to what is then
    removed.
    """
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


def _begin(target: Path, force: bool) -> ClaimedFolder:
    """A temporary folder beside the target, where downloads that were killed have left nothing any
    more.
    """
    if target.exists() and not force:
        raise InvalidInputError(
            f"{target} exists already",
            advice="Give force=True to replace it, or another output_dir.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in claim_orphans(target.parent, _PREFIX, target.name):
        _give_back(left.path / _REPLACED, target)
        logger.info("removing %s, which a download of %s left that was killed", left.path, target)
        left.remove()
    folder = ClaimedFolder.make(target.parent, _PREFIX, target.name)
    (folder.path / "checkpoint").mkdir()
    return folder


def _give_back(replaced: Path, target: Path) -> None:
    """Puts what was there before in its place again, where its own successor did not come to be."""
    if replaced.exists() and not target.exists():
        replaced.rename(target)


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
