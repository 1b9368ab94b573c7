"""Files that a killed process leaves on the disk are removed, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.archives import files_in, tar_of
from tests.support.counting_engine import ROOT
from tests.support.file_store import CONTENT, FOLDER, MIB, PATH, stored
from tinkex import Config, Dialect, RestClient
from tinkex.claimed_folder import ClaimedFolder, claim_orphans

_DOWNLOAD = """
import sys, tinkex
def came(size, _):
    if size: print("came", flush=True)
rest = tinkex.RestClient(
    tinkex.Config(base_url=sys.argv[1], api_key="tml-test", dialect=tinkex.Dialect())
)
rest.download_checkpoint(sys.argv[2], output_dir=sys.argv[3], progress=came)
"""
_LOCAL = """
import time, tinkex
from tinkex.local import process_server
process_server.local_url()
print(process_server._started.folder.path, flush=True)
time.sleep(60)
"""


def start(program: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    process.send_signal(how)
    process.communicate(timeout=60)


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if is_so():
            return True
        time.sleep(0.05)
    return False


def work_folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.name.startswith(".tinkex-download-")]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_download_removes_what_a_killed_one_left(
    tmp_path: Path, how: signal.Signals
) -> None:
    strange = tmp_path / ".tinkex-download-of-mine"
    strange.mkdir()
    with stored(tar_of({"a": bytes(3 * MIB)}), cuts=[2 * MIB] * 2) as (store, _, server):
        store.arrived = threading.Event()
        killed, alive = (start(_DOWNLOAD, server.base_url, PATH, tmp_path) for _ in range(2))
        try:
            assert line_of(killed) == line_of(alive) == "came"
            end(killed, how)
            assert len(work_folders(tmp_path)) == 3
            with stored(tar_of(CONTENT)) as (_, _, other):
                rest = RestClient(
                    Config(base_url=other.base_url, api_key="tml-test", dialect=Dialect())
                )
                rest.download_checkpoint(PATH, output_dir=tmp_path)
            assert files_in(tmp_path / FOLDER) == CONTENT
            left = [path for path in work_folders(tmp_path) if path != strange]
            assert len(left) == 1, "that of the process which goes on"
            assert strange.is_dir()
        finally:
            store.arrived.set()
            end(alive, signal.SIGKILL)


def test_a_folder_for_another_target_or_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    mine = ClaimedFolder.make(tmp_path, "x-", "a")
    assert claim_orphans(tmp_path, "x-", "a") == []
    mine._lock.close()  # as at the end of its process
    assert claim_orphans(tmp_path, "x-", "b") == []
    [found] = claim_orphans(tmp_path, "x-", "a")
    assert claim_orphans(tmp_path, "x-", "a") == [], "it is taken"
    found.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_data_of_a_server_in_a_process_goes_with_the_process(
    tmp_path: Path, how: signal.Signals
) -> None:
    process = start(_LOCAL, TMPDIR=str(tmp_path))
    folder = Path(line_of(process))
    assert (folder / "data" / "tinkex.db").is_file()
    end(process, how)
    assert within(20, lambda: not folder.exists()), list(folder.rglob("*"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_data_that_was_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left = ClaimedFolder.make(tmp_path, "tinkex-local-", "data of a server")
    (left.path / "data").mkdir()
    left._lock.close()
    process = start(_LOCAL, TMPDIR=str(tmp_path))
    assert Path(line_of(process)).is_dir()
    assert not left.path.exists()
    end(process, signal.SIGTERM)
