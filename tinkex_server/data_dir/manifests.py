"""Manifests: a file in the folder of each save, from which its rows in the store can be restored if
the database is lost.

The manifest is written last. It holds the hash of the owner's API key, since a key has another id
in another database, and must see only what it owns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from attrs import asdict, field, frozen

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir import digests
from tinkex_server.data_dir.folders import flush, write
from tinkex_server.data_dir.sizes import folder_size
from tinkex_server.engine.interface import LoraShape
from tinkex_server.store import CheckpointRow, EnrolledKey, ModelRow, SamplerRow, SessionRow, Store

FILE = ".tinkex.json"
"""The name of the file. It begins with a dot, so it is not part of downloads."""
_FORMAT = 1


class UnreadableManifest(ValueError):
    """A manifest that is missing, or that this release cannot read."""


@frozen
class Manifest:
    """The rows of one save: a checkpoint, or the sampling sessions that weights were saved for.

    The rows' `owner` is the id of the key in the database of that time. Their `folder` is not used:
    it is the folder that the manifest is in.
    """

    session: SessionRow
    key: EnrolledKey | None
    """The API key of the owner, if any."""
    run: ModelRow | None = None
    checkpoint: CheckpointRow | None = None
    samplers: Sequence[SamplerRow] = ()
    saved_at: float = field(factory=time.time)
    """The time of the save, in seconds since 1970."""


def of_checkpoint(
    store: Store, run: ModelRow, row: CheckpointRow, session: SessionRow | None = None
) -> Manifest:
    """Returns the manifest of a checkpoint. `session` is the session of its run, if the store does
    not have it yet.
    """
    session, key = _owned(store, session or _stored(store, run.session_id))
    return Manifest(session, key, run, row, saved_at=row.created_at)


def of_samplers(store: Store, new: SamplerRow) -> Manifest:
    """Returns the manifest of the weights of a new sampling session, with the sessions that sample
    from the same in-flight weights.
    """
    session, key = _owned(store, _stored(store, new.session_id))
    sharing = store.samplers.inflight(new.inflight_of) if new.inflight_of else []
    return Manifest(session, key, samplers=[new, *sharing])


def _stored(store: Store, session_id: str) -> SessionRow:
    session = store.sessions.get(session_id)
    if session is None:
        raise LookupError(
            f"the store has no session {session_id!r}, though a training run belongs to it"
        )
    return session


def _owned(store: Store, session: SessionRow) -> tuple[SessionRow, EnrolledKey | None]:
    return session, store.keys.enrolled(int(session.owner)) if session.owner else None


def save(folder: Path, make: Callable[[Path], object], manifest: Manifest) -> int:
    """Saves weights: calls `make` to create a folder, and adds digests and the manifest, in this
    order. Returns the bytes of its files when all of it is on the disk.
    """

    def make_sealed(folder: Path) -> None:
        make(folder)
        digests.seal(folder)

    write(folder, make_sealed)
    put(folder, manifest)
    return size_of(folder)


def size_of(folder: Path) -> int:
    """Returns the bytes of the files that were saved, without the manifest and the digests."""
    own = (folder / FILE, folder / digests.FILE)
    return folder_size(folder) - sum(file.stat().st_size for file in own if file.exists())


def put(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of a folder, in place of an older one. A crash leaves one of the two."""
    file, new = folder / FILE, folder / f"{FILE}.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(orjson.dumps({"format": _FORMAT, **asdict(manifest)}, default=_written))
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
    flush([folder])


def remove(folder: Path) -> None:
    """Removes the manifest of a folder. It is called before the row is deleted on purpose, so that
    `reconcile` does not restore the row.
    """
    (folder / FILE).unlink(missing_ok=True)


def read(folder: Path) -> Manifest:
    """Returns the manifest of a folder. Raises `UnreadableManifest`."""
    try:
        fields = orjson.loads((folder / FILE).read_bytes())
        if fields.pop("format") != _FORMAT:
            raise ValueError("it was written by another release")
        return Manifest(
            SessionRow(**fields["session"]),
            _read_key(fields["key"]),
            _read_run(fields["run"]),
            _read_checkpoint(fields["checkpoint"]),
            [SamplerRow(**row) for row in fields["samplers"]],
            float(fields["saved_at"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnreadableManifest(f"{folder / FILE}: {error}") from error


def _written(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} cannot be written to a manifest")


def _read_key(fields: Mapping[str, Any] | None) -> EnrolledKey | None:
    if fields is None:
        return None
    values: dict[str, Any] = {
        **fields,
        **{name: bytes.fromhex(fields[name]) for name in ("hashed", "salt")},
    }
    return EnrolledKey(**values)


def _read_run(fields: Mapping[str, Any] | None) -> ModelRow | None:
    if fields is None:
        return None
    values: dict[str, Any] = {**fields, "lora": LoraShape(**fields["lora"])}
    return ModelRow(**values)


def _read_checkpoint(fields: Mapping[str, Any] | None) -> CheckpointRow | None:
    if fields is None:
        return None
    values: dict[str, Any] = {**fields, "path": CheckpointPath(**fields["path"])}
    return CheckpointRow(**values)
