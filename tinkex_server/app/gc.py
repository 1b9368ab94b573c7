"""`gc`: makes a data folder as small as possible while no server uses it. A running server removes
what has expired by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from attrs import frozen

from tinkex_server.app.expiry import expire
from tinkex_server.data_dir.folders import Folders
from tinkex_server.data_dir.reconcile import reconcile
from tinkex_server.data_dir.sizes import Sizes, sizes_of
from tinkex_server.data_dir.uploads import Uploads
from tinkex_server.limits import Limits
from tinkex_server.store import Store


@frozen
class GcResult:
    """The sizes of a data folder before and after `gc`, and what it left there."""

    before: Sizes
    after: Sizes
    audit_entries: int
    """The number of entries that the audit log has left."""
    usage_entries: int
    """The number of usage records that are left."""
    set_aside: Sequence[str] = ()
    """The folders that belong to no checkpoint and were kept, as paths in the data folder."""


def gc(
    data_dir: Path | str,
    limits: Limits | None = None,
    *,
    remove: Callable[[Sequence[str]], bool] = lambda aside: True,
) -> GcResult:
    """Removes what has expired by `limits`, and shrinks the database file.

    Saved weights that the database has lost are added to it again: see `data_dir.reconcile`.
    Folders for which that is not possible are set aside.

    Raises `StoreError` when a server uses the folder, or when another release has written it.

    Args:
        data_dir: the data folder.
        limits: how long results and records are kept; by default as long as by a server.
        remove: is called with the paths of the folders that were set aside, and returns whether to
            remove them.
    """
    data_dir, limits = Path(data_dir), limits or Limits()
    before = sizes_of(data_dir)
    with closing(Store(data_dir / "tinkex.db")) as store:
        folders = Folders(data_dir)
        reconcile(store, folders)
        while expire(store, limits, time.time()):
            pass
        folders.remove_unused_offline(store.folders())
        Uploads(data_dir).drop_expired(time.time())
        if (aside := folders.set_aside_paths()) and remove(aside):
            folders.remove_set_aside()
        store.compact()
        entries = store.audit.count(), store.usage.count()
    return GcResult(before, sizes_of(data_dir), *entries, folders.set_aside_paths())
