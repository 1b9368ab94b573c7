"""`reconcile`: brings the database and the folders of saved weights into agreement at a start.

The database may be lost, empty or older than the folders, or may have lost its last writes. Rows
are then restored from the manifests of folders that no row names. A folder without a readable
manifest, or one whose checkpoint was saved again since, is set aside until somebody removes it.
Nothing is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from typing import TypeAlias

from attrs import evolve, frozen

from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.data_dir import manifests
from tinkex_server.data_dir.folders import Folders
from tinkex_server.data_dir.manifests import Manifest
from tinkex_server.store import Store

logger = logging.getLogger("tinkex.local")

_SaveKey: TypeAlias = CheckpointPath | str
"""The key of a save: the path of a checkpoint, or the id of a sampling session."""


@frozen
class Reconciliation:
    """The counts of what `reconcile` did."""

    restored: int
    """The number of folders whose rows were restored."""
    set_aside: int
    """The number of folders that were set aside."""
    missing: int
    """The number of folders that rows of checkpoints name, but that do not exist."""


def reconcile(store: Store, folders: Folders) -> Reconciliation:
    """Restores lost rows, and sets folders aside that belong to none. Logs a warning for each kind
    of disagreement.

    It is called while nothing is saved or read.
    """
    named = store.folders_ever_used()
    folders.mark_known(named)
    on_disk = folders.names_on_disk()
    _add_missing_manifests(store, folders)
    manifests_found, unreadable = _read_all(folders, on_disk - named)
    newest = _newest(store, folders, manifests_found)
    for name, manifest in manifests_found.items():
        keys = {key for key, winner in newest.items() if winner == name}
        _restore(store, folders, name, manifest, keys)
    restored = set(newest.values())
    folders.mark_known(restored)
    to_set_aside = unreadable | (manifests_found.keys() - restored)
    for name in to_set_aside:
        folders.set_aside(name)
    folders.drop_empty()
    missing = {name for name in store.checkpoints.folders() if not folders.path(name).is_dir()}
    result = Reconciliation(len(restored), len(to_set_aside), len(missing))
    _log(result, folders)
    return result


def _add_missing_manifests(store: Store, folders: Folders) -> None:
    """Writes the manifests of checkpoints of an older release, which had none."""
    for row in store.checkpoints.page(None, -1, 0):
        folder, run = folders.path(row.folder), store.models.get(row.path.run_id)
        if run and folder.is_dir() and not (folder / manifests.FILE).exists():
            try:
                manifests.put(folder, manifests.of_checkpoint(store, run, row))
            except OSError as error:
                logger.warning(
                    "%s cannot be written, so only the database knows %s: %s",
                    folder,
                    row.path,
                    error,
                )


def _read_all(folders: Folders, names: set[str]) -> tuple[Mapping[str, Manifest], set[str]]:
    """Returns the readable manifests by folder, the oldest first, and the other folders."""
    found: dict[str, Manifest] = {}
    unreadable: set[str] = set()
    for name in names:
        try:
            found[name] = manifests.read(folders.path(name))
        except manifests.UnreadableManifest as error:
            logger.info("%s", error)
            unreadable.add(name)
    return dict(sorted(found.items(), key=lambda item: item[1].saved_at)), unreadable


def _newest(
    store: Store, folders: Folders, found: Mapping[str, Manifest]
) -> Mapping[_SaveKey, str]:
    """Returns the folder to restore for each save that has no row with files: the newest of
    several.
    """
    return {
        key: name
        for name, manifest in found.items()
        for key in _keys(manifest)
        if not _has_files(store, folders, key)
    }


def _keys(manifest: Manifest) -> list[_SaveKey]:
    keys: list[_SaveKey] = [row.sampler_id for row in manifest.samplers]
    if manifest.checkpoint and manifest.run:
        keys.append(manifest.checkpoint.path)
    return keys


def _has_files(store: Store, folders: Folders, key: _SaveKey) -> bool:
    row = store.samplers.get(key) if isinstance(key, str) else store.checkpoints.get(key)
    return row is not None and (row.folder is None or folders.path(row.folder).is_dir())


def _restore(
    store: Store, folders: Folders, name: str, manifest: Manifest, keys: Set[_SaveKey]
) -> None:
    """Restores the rows of these saves, so that they name the folder."""
    if not keys:
        return
    owner = str(store.keys.restore(manifest.key)) if manifest.key else ""
    store.sessions.restore(evolve(manifest.session, owner=owner))
    for row in manifest.samplers:
        if row.sampler_id in keys:
            store.samplers.restore(evolve(row, folder=name), manifest.saved_at)
    if manifest.run and manifest.checkpoint and manifest.checkpoint.path in keys:
        if store.models.get(manifest.run.model_id) is None:
            state = "unloaded" if manifest.run.state == "unloaded" else "lost"
            store.models.add(evolve(manifest.run, state=state))
        store.checkpoints.restore(
            evolve(
                manifest.checkpoint, folder=name, size_bytes=manifests.size_of(folders.path(name))
            )
        )


def _log(result: Reconciliation, folders: Folders) -> None:
    if result.restored:
        logger.warning(
            "%d save(s) were in the data folder but not in its database, which seems to have been "
            "lost; they were restored from the manifests beside their weights",
            result.restored,
        )
    if result.set_aside:
        logger.warning(
            "%d folder(s) of weights belong to no checkpoint; they were moved to %s, where they "
            "stay until `tinkex serve --gc` removes them",
            result.set_aside,
            folders.path("set_aside"),
        )
    if result.missing:
        logger.warning(
            "%d checkpoint(s) cannot be loaded: their files are missing from the data folder",
            result.missing,
        )
