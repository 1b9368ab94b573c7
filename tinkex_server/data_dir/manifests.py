"""Manifests: a file in the folder of each save, with what its rows in the store need, so that those
can be made again without a database.

It is written last, and holds the hash of its owner's key: under another database a key has another
number, and must see its own alone.
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
"""Not among the files that are downloaded: those do not begin with a dot."""
_FORMAT = 1


class Unreadable(ValueError):
    """The manifest is not there, or is none that this release reads."""


@frozen
class Manifest:
    """A saved checkpoint, or the sampling sessions that weights were saved for; its run and
    session; and the key of its owner, if any.

    The rows' `owner` is the number of that key in the database of then, and `folder` is to be taken
    from where the manifest lies.
    """

    session: SessionRow
    key: EnrolledKey | None
    run: ModelRow | None = None
    checkpoint: CheckpointRow | None = None
    samplers: Sequence[SamplerRow] = ()
    saved_at: float = field(factory=time.time)
    """In seconds since 1970."""


def of_checkpoint(
    store: Store, run: ModelRow, row: CheckpointRow, session: SessionRow | None = None
) -> Manifest:
    """Returns the manifest of a save. `session` is the run's where the store does not have it
    yet.
    """
    session, key = _owned(store, session or _stored(store, run.session_id))
    return Manifest(session, key, run, row, saved_at=row.created_at)


def of_samplers(store: Store, new: SamplerRow) -> Manifest:
    """Of a new sampling session, and of those that sample from the same in-flight weights."""
    session, key = _owned(store, _stored(store, new.session_id))
    sharing = store.samplers.inflight(new.inflight_of) if new.inflight_of else []
    return Manifest(session, key, samplers=[new, *sharing])


def _stored(store: Store, session_id: str) -> SessionRow:
    session = store.sessions.get(session_id)
    if session is None:
        raise LookupError(f"session {session_id!r} of a run is not in the store")
    return session


def _owned(store: Store, session: SessionRow) -> tuple[SessionRow, EnrolledKey | None]:
    return session, store.keys.enrolled(int(session.owner)) if session.owner else None


def save(folder: Path, make: Callable[[Path], object], manifest: Manifest) -> int:
    """Has `make` make this folder, and returns the bytes of its files when it is on the disk with
    their digests, the manifest last.
    """

    def make_sealed(folder: Path) -> None:
        make(folder)
        digests.seal(folder)

    write(folder, make_sealed)
    put(folder, manifest)
    return size_of(folder)


def size_of(folder: Path) -> int:
    """Bytes of all that was saved there, without the manifest and the digests."""
    own = (folder / FILE, folder / digests.FILE)
    return folder_size(folder) - sum(file.stat().st_size for file in own if file.exists())


def put(folder: Path, manifest: Manifest) -> None:
    """Writes it in the place of an older one; a crash leaves one of the two."""
    file, new = folder / FILE, folder / f"{FILE}.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(orjson.dumps({"format": _FORMAT, **asdict(manifest)}, default=_written))
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
    flush([folder])


def remove(folder: Path) -> None:
    """Before its row is deleted on purpose: no later start takes the save for one whose row was
    lost.
    """
    (folder / FILE).unlink(missing_ok=True)


def read(folder: Path) -> Manifest:
    """Raises `Unreadable`."""
    try:
        fields = orjson.loads((folder / FILE).read_bytes())
        if fields.pop("format") != _FORMAT:
            raise ValueError("it is of another release")
        return Manifest(
            SessionRow(**fields["session"]),
            _read_key(fields["key"]),
            _read_run(fields["run"]),
            _read_checkpoint(fields["checkpoint"]),
            [SamplerRow(**row) for row in fields["samplers"]],
            float(fields["saved_at"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unreadable(f"{folder / FILE}: {error}") from error


def _written(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


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
