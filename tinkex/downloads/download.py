"""Downloads a checkpoint to a folder: all of its files, or none."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path

from attrs import define, field

from tinkex.claimed_folder import ClaimedFolder, claim_orphans
from tinkex.downloads.adapter_targets import add_target_modules
from tinkex.downloads.extract import ArchiveLimits, unpack
from tinkex.downloads.fetch import fetch
from tinkex.downloads.partial_file import PartialFile
from tinkex.downloads.safe_names import SafeNames
from tinkex.downloads.sources import Archive, SignedFile, UrlTable
from tinkex.errors import CheckpointDownloadError, InvalidInputError, TinkexError
from tinkex.threads import in_thread_to_end
from tinkex.transport.transport import Transport
from tinkex.types.checkpoint_path import EXTERNAL_WEIGHTS, CheckpointAddress

logger = logging.getLogger("tinkex")

ProgressCallback = Callable[[int, int | None], object]
"""A function called with the number of bytes that were transferred, and of bytes in all; None while
the latter is not known.
"""

LIMITS = ArchiveLimits()
TIED_NOTE = "TIED_EMBEDDINGS.md"
"""The name of a file that the embedded server adds to adapters that peft cannot merge."""
_PREFIX, _REPLACED = ".tinkex-download-", "replaced"
_NOT_IN_NAMES = re.compile(r"[^\w.-]")


def folder_name(tinker_path: str) -> str:
    """Returns the folder name of a path: `S1_train_0_weights_0001` for
    `tinker://S1:train:0/weights/0001`.
    """
    return _NOT_IN_NAMES.sub("_", tinker_path.partition("://")[2])


async def download(
    transport: Transport,
    address: CheckpointAddress,
    target: Path,
    *,
    force: bool,
    progress: ProgressCallback | None,
) -> Path:
    """Fetches a checkpoint to the folder `target`, and returns that folder.

    The files are written to a temporary folder beside it, whose content is moved to `target` at the
    end. That folder is always removed; the one of a process that was killed is removed by
    the next download to the same target.
    """
    try:
        folder = await in_thread_to_end(_make_work_folder, _remove_when_made, target, force)
        content = folder.path / "checkpoint"
        try:
            if address.kind == EXTERNAL_WEIGHTS:
                await _fetch_files(transport, address, content, _Meter(progress))
            else:
                await _fetch_archive(transport, address, content, _Meter(progress))
            add_target_modules(content)
            _move(content, target, folder.path / _REPLACED)
        finally:
            folder.remove()  # without an await, which could be cancelled
    except TinkexError:  # WaitTimeoutError is an OSError too
        raise
    except OSError as error:
        raise CheckpointDownloadError(
            f"the checkpoint cannot be written to {target}: {error}"
        ) from error
    if (target / TIED_NOTE).is_file():
        logger.warning(
            "%s is an adapter on the output layer of a model whose embeddings are tied. It works "
            "as it is, but peft's merge_and_unload would change the input embeddings too. To merge "
            "it, run python -m tinkex.local.merge %s OUTPUT",
            target,
            target,
        )
    return target


@define(eq=False)
class _Meter:
    """The progress of all files of a download, as its callback is told of it."""

    callback: ProgressCallback | None
    parts: list[PartialFile] = field(factory=list[PartialFile])

    def report(self) -> None:
        if self.callback is not None:
            totals = [part.total for part in self.parts if part.total is not None]
            self.callback(
                sum(part.size for part in self.parts),
                sum(totals) if len(totals) == len(self.parts) else None,
            )


async def _fetch_archive(
    transport: Transport, address: CheckpointAddress, content: Path, meter: _Meter
) -> None:
    part = PartialFile(content.with_name("archive.tar"))
    meter.parts.append(part)
    await fetch(transport, Archive(transport, address), part, meter.report)
    await _unpack(part.path, content)


async def _fetch_files(
    transport: Transport, address: CheckpointAddress, content: Path, meter: _Meter
) -> None:
    table = UrlTable(transport, address)
    await table.sign()
    if len(table.urls) > LIMITS.max_files:
        raise CheckpointDownloadError(
            f"the checkpoint has {len(table.urls)} files, but at most "
            f"{LIMITS.max_files} are accepted"
        )
    if not table.urls:
        raise CheckpointDownloadError("the checkpoint has no files")
    names = SafeNames()
    parts = {name: PartialFile(content / names.add(name)) for name in table.urls}
    meter.parts += parts.values()
    for name, part in parts.items():
        part.path.parent.mkdir(parents=True, exist_ok=True)
        await fetch(transport, SignedFile(table, name), part, meter.report)


async def _unpack(archive: Path, content: Path) -> None:
    """Unpacks the archive in a thread, which stops when this is cancelled."""
    stop = threading.Event()
    await in_thread_to_end(unpack, lambda _: stop.set(), archive, content, LIMITS, stop.is_set)


def _make_work_folder(target: Path, force: bool) -> ClaimedFolder:
    """Makes a temporary folder beside the target. Removes those that killed downloads left."""
    if target.exists() and not force:
        raise InvalidInputError(
            f"{target} exists already",
            advice="Give force=True to replace it, or another output_dir.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in claim_orphans(target.parent, _PREFIX, target.name):
        _restore(left.path / _REPLACED, target)
        logger.info("removing %s, left by a download to %s that was killed", left.path, target)
        left.remove()
    folder = ClaimedFolder.make(target.parent, _PREFIX, target.name)
    (folder.path / "checkpoint").mkdir()
    return folder


def _remove_when_made(making: asyncio.Future[ClaimedFolder]) -> None:
    def remove(made: asyncio.Future[ClaimedFolder]) -> None:
        if made.exception() is None:
            made.result().remove()

    making.add_done_callback(remove)


def _restore(replaced: Path, target: Path) -> None:
    """Moves the folder that was to be replaced back, where its replacement never arrived."""
    if replaced.exists() and not target.exists():
        replaced.rename(target)


def _move(content: Path, target: Path, replaced: Path) -> None:
    """Moves the content to the target. A folder that is there is moved to `replaced` first, and
    back if that fails.
    """
    if not target.exists():
        content.rename(target)
        return
    target.rename(replaced)
    try:
        content.rename(target)
    except OSError:
        replaced.rename(target)
        raise
