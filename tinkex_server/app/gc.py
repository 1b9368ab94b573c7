"""`gc`: makes a data folder as small as it can be, while no server uses it. A server removes what
is past its time by itself.
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
    """What the data folder took, and takes, and how many entries the audit log and the usage have
    left.
    """

    before: Sizes
    after: Sizes
    audit_entries: int
    usage_entries: int
    set_aside: Sequence[str] = ()
    """Folders that belong to no checkpoint and were kept, by their paths in the data folder."""


def gc(
    data_dir: Path | str,
    limits: Limits | None = None,
    *,
    remove: Callable[[Sequence[str]], bool] = lambda aside: True,
) -> GcResult:
    """Removes what is past its time by `limits`, and folders that belong to nothing, and gives free
    pages of the database back.

    What the database does not know and can be listed again, is: see `rebuild`. The rest is set
    aside, and goes if `remove` says so of it.

    Raises `StoreError` when a server uses the folder, or when it is of another release.
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
