"""`Uploads`: adapters that clients are sending, file by file, until each is made a checkpoint or
its time is over.

They lie in the data folder, apart from what is saved: a server that is restarted meanwhile goes on
with them.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
from attrs import asdict, frozen

from tinkex_server.engine.interface import ADAPTER_FILES, LoraShape

_FOLDER = "uploads"
_FACTS = "upload.json"
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


@frozen
class Upload:
    """An adapter that is being sent. Its id is that of the session which its checkpoint will
    be in.
    """

    upload_id: str
    owner: str
    base_model: str
    lora: LoraShape
    project_id: str | None
    expires_at: float
    """Until when files are taken, in seconds since 1970."""


class Uploads:
    """The uploads of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / _FOLDER
        self.finish_lock = asyncio.Lock()
        """Held while a checkpoint is made of an upload, so that each is made once."""

    def create(self, upload: Upload) -> None:
        """Makes room for the files of a new upload."""
        folder = self.folder(upload.upload_id)
        self._root.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        (folder / _FACTS).write_bytes(orjson.dumps(asdict(upload)))

    def get(self, upload_id: str) -> Upload | None:
        """Returns an upload by its id, or None if there is none."""
        if not _ID.fullmatch(upload_id):
            return None
        try:
            fields = orjson.loads((self.folder(upload_id) / _FACTS).read_bytes())
        except FileNotFoundError:
            return None
        lora = LoraShape(**fields.pop("lora"))
        return Upload(lora=lora, **fields)

    def folder(self, upload_id: str) -> Path:
        """Returns the folder that the files of an upload are in. Raises `ValueError` for a text
        that cannot be an upload's id.
        """
        if not _ID.fullmatch(upload_id):  # it could lead out of the data folder
            raise ValueError(f"{upload_id!r} cannot be the id of an upload")
        return self._root / upload_id

    @contextmanager
    def new_file(self, upload_id: str, name: str) -> Generator[Path, None, None]:
        """Gives a new file to write to, which takes the place of the one of that name once it is
        whole.
        """
        folder = self.folder(upload_id)
        part = folder / f"{name}.{secrets.token_hex(4)}.part"
        try:
            yield part
            part.replace(folder / name)
        finally:
            part.unlink(missing_ok=True)

    def missing_files(self, upload_id: str) -> Sequence[str]:
        """Returns the names of the files that have not been sent."""
        folder = self.folder(upload_id)
        return [name for name in ADAPTER_FILES if not (folder / name).is_file()]

    def remove(self, upload_id: str) -> None:
        """Removes an upload with its files."""
        shutil.rmtree(self.folder(upload_id), ignore_errors=True)

    def drop_expired(self, now: float) -> None:
        """Removes the uploads whose time is over."""
        with suppress(FileNotFoundError):
            for folder in list(self._root.iterdir()):
                upload = self.get(folder.name)
                if upload is not None and upload.expires_at <= now:
                    self.remove(folder.name)
