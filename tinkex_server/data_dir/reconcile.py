"""`rebuild`: what a start does about folders that the database does not name. It deletes nothing.

The database may be gone, empty or older than the folders, or its last writes may be lost; so rows
are made again from the manifests. A folder that tells of no save, or of one that was saved anew
since, is set aside until somebody has it removed.
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

_Place: TypeAlias = CheckpointPath | str
"""A checkpoint's path, or the id of a sampling session: what one folder at a time belongs to."""


@frozen
class Reconciliation:
    """How many folders got their rows again, were set aside, and are named by a checkpoint's row
    and not there.
    """

    restored: int
    set_aside: int
    missing: int


def reconcile(store: Store, folders: Folders) -> Reconciliation:
    """To be called while nothing is saved or read. Logs a warning for whatever was not as it should
    be.
    """
    named = store.folders_ever_used()
    folders.remember(named)
    there = folders.names_on_disk()
    _complete(store, folders)
    found, nameless = _read_all(folders, there - named)
    newest = _newest(store, folders, found)
    for name, manifest in found.items():
        _restore(
            store,
            folders,
            name,
            manifest,
            {place for place, winner in newest.items() if winner == name},
        )
    restored = set(newest.values())
    folders.remember(restored)
    aside = nameless | (found.keys() - restored)
    for name in aside:
        folders.set_aside(name)
    folders.drop_empty()
    missing = {name for name in store.checkpoints.folders() if not folders.path(name).is_dir()}
    rebuilt = Reconciliation(len(restored), len(aside), len(missing))
    _tell(rebuilt, folders)
    return rebuilt


def _complete(store: Store, folders: Folders) -> None:
    """Gives a manifest to what a release before saved, which had none."""
    for row in store.checkpoints.page(None, -1, 0):
        folder, run = folders.path(row.folder), store.models.get(row.path.run_id)
        if run and folder.is_dir() and not (folder / manifests.FILE).exists():
            try:
                manifests.put(folder, manifests.of_checkpoint(store, run, row))
            except OSError as error:
                logger.warning(
                    "%s cannot be written, so %s depends on the database alone: %s",
                    folder,
                    row.path,
                    error,
                )


def _read_all(folders: Folders, names: set[str]) -> tuple[Mapping[str, Manifest], set[str]]:
    """The manifests that can be read, by folder and oldest first, and the folders without one."""
    found: dict[str, Manifest] = {}
    nameless: set[str] = set()
    for name in names:
        try:
            found[name] = manifests.read(folders.path(name))
        except manifests.Unreadable as error:
            logger.info("%s", error)
            nameless.add(name)
    return dict(sorted(found.items(), key=lambda item: item[1].saved_at)), nameless


def _newest(store: Store, folders: Folders, found: Mapping[str, Manifest]) -> Mapping[_Place, str]:
    """The folder to restore for each place that no row has with its files: of several the one that
    was saved last.
    """
    return {
        place: name
        for name, manifest in found.items()
        for place in _places(manifest)
        if not _is_taken(store, folders, place)
    }


def _places(manifest: Manifest) -> list[_Place]:
    named: list[_Place] = [manifest.checkpoint.path] if manifest.checkpoint and manifest.run else []
    return [*named, *(row.sampler_id for row in manifest.samplers)]


def _is_taken(store: Store, folders: Folders, place: _Place) -> bool:
    row = store.samplers.get(place) if isinstance(place, str) else store.checkpoints.get(place)
    return row is not None and (row.folder is None or folders.path(row.folder).is_dir())


def _restore(
    store: Store, folders: Folders, name: str, manifest: Manifest, places: Set[_Place]
) -> None:
    """Makes the rows of these places name the folder."""
    if not places:
        return
    owner = str(store.keys.restore(manifest.key)) if manifest.key else ""
    store.sessions.restore(evolve(manifest.session, owner=owner))
    for row in manifest.samplers:
        if row.sampler_id in places:
            store.samplers.restore(evolve(row, folder=name), manifest.saved_at)
    if manifest.run and manifest.checkpoint and manifest.checkpoint.path in places:
        if store.models.get(manifest.run.model_id) is None:
            state = "unloaded" if manifest.run.state == "unloaded" else "lost"
            store.models.add(evolve(manifest.run, state=state))
        store.checkpoints.restore(
            evolve(
                manifest.checkpoint, folder=name, size_bytes=manifests.size_of(folders.path(name))
            )
        )


def _tell(rebuilt: Reconciliation, folders: Folders) -> None:
    if rebuilt.restored:
        logger.warning(
            "%d saves were in the data folder and not in its database, as after a loss of it; "
            "they are listed again, from what lies "
            "beside their weights",
            rebuilt.restored,
        )
    if rebuilt.set_aside:
        logger.warning(
            "%d folders of weights belong to no checkpoint: they were moved to %s, where they "
            "stay until `tinkex serve --gc` removes "
            "them",
            rebuilt.set_aside,
            folders.path("set_aside"),
        )
    if rebuilt.missing:
        logger.warning(
            "the files of %d checkpoints are gone from the data folder; those cannot be loaded",
            rebuilt.missing,
        )
