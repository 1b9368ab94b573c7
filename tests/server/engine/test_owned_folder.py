"""Temporary folders of engines end with their processes, and no others with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tinkex_server.engine.owned_folder import OwnedFolder, remove_abandoned
from tinkex_server.engine.vllm.adapters import AdapterFolders

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")

_OWN = """
import sys
from pathlib import Path
from tinkex_server.engine.owned_folder import OwnedFolder
folder = OwnedFolder(Path(sys.argv[1]))
(folder.path / "adapter").mkdir()
(folder.path / "adapter" / "weights").write_text("w")
print(folder.path, flush=True)
input()
"""


@contextmanager
def owner(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Runs a process with a folder in `parent`."""
    command = [sys.executable, "-c", _OWN, str(parent)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_a_folder_is_removed_when_its_owner_was_killed_and_not_before(tmp_path: Path) -> None:
    with owner(tmp_path) as (living, its), owner(tmp_path) as (killed, left):
        remove_abandoned(tmp_path)
        assert (left / "adapter" / "weights").exists()
        kill(killed)
        with closing(OwnedFolder(tmp_path)) as folder:
            assert not left.exists()
            assert folder.path.is_dir()
        assert not folder.path.exists()
        assert (its / "adapter" / "weights").read_text() == "w"
        kill(living)
        remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sampler_removes_what_a_killed_one_left_when_it_starts_and_when_it_ends(
    tmp_path: Path,
) -> None:
    with owner(tmp_path) as (first, left_before), owner(tmp_path) as (second, left_after):
        kill(first)
        folders = AdapterFolders(tmp_path)
        assert not left_before.exists()
        kill(second)
        folders.close()
        assert not left_after.exists()


def test_folders_that_nobody_has_marked_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    with owner(tmp_path) as (process, path):
        kill(process)
        path.rename(other)
    mark = (other / ".owner").read_text()
    kept = {
        "tinkex-engine-1-bare": None,  # between its creation and its lock
        "tinkex-engine-1-empty": "",
        "tinkex-engine-1-elsewhere": f"{mark}.example",  # on a disk that two machines share
        "tinkex-engine-1-foreign": "something else",
    }
    for name, text in kept.items():
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / ".owner").write_text(text)
    (tmp_path / "tinkex-engine-1-link").symlink_to(other)
    before = sorted(tmp_path.iterdir())
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert (other / "adapter" / "weights").exists()


def test_processes_that_clean_up_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    left = list[Path]()
    for _ in range(5):
        with owner(tmp_path) as (process, path):
            kill(process)
            left.append(path)
    remove = (
        "import sys; from pathlib import Path; "
        "from tinkex_server.engine.owned_folder import remove_abandoned; "
        "remove_abandoned(Path(sys.argv[1]))"
    )
    cleaners = [subprocess.Popen([sys.executable, "-c", remove, str(tmp_path)]) for _ in range(4)]
    assert [cleaner.wait(60) for cleaner in cleaners] == [0] * 4
    assert not any(path.exists() for path in left)
