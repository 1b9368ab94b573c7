"""`base_url="local"`: a server in the process of the script. Each script is a process of its
own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_FAKE = """
import functools, os, sys, textwrap, threading
import tinkex.local
tinkex.local.serve = functools.partial(tinkex.local.serve, "fake/base", engine="fake")
import tinkex

def url(service):
    service.create_lora_training_client("fake/base", rank=4).get_info()
    return service._client._transport.base_url
"""


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _FAKE + textwrap.dedent(script)],
        env={**os.environ, "TMPDIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def check(done: subprocess.CompletedProcess[str], folder: Path) -> list[str]:
    """The lines that a script printed which ended well and left nothing behind."""
    # which a slow machine may well say
    unsaid = [line for line in done.stderr.splitlines() if " has waited " not in line]
    assert (done.returncode, unsaid) == (0, [])
    assert not list(folder.glob("tinkex*"))
    return done.stdout.splitlines()


def test_clients_of_both_facades_share_one_server_which_ends_with_the_process(
    tmp_path: Path,
) -> None:
    script = """
        import asyncio

        config = tinkex.Config()
        first, second = tinkex.ServiceClient(), tinkex.ServiceClient("local")
        # the portal's thread is the only other one
        print(config.base_url, first.config.base_url, threading.active_count() - 1)
        assert url(first) == url(second)

        async def other():
            async with tinkex.AsyncServiceClient("local") as service:
                await service.get_server_capabilities()
                return service._transport.base_url

        assert asyncio.run(other()) == url(first)
        names = [thread.name for thread in threading.enumerate()]
        print(threading.active_count() > 2, names.count("tinkex-server"))
    """
    assert check(run(script, tmp_path, TINKER_BASE_URL="local"), tmp_path) == [
        "local local 1",
        "True 1",
    ]


def test_many_threads_start_one_server(tmp_path: Path) -> None:
    script = """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            print(len(set(pool.map(lambda _: url(tinkex.ServiceClient("local")), range(8)))))
    """
    assert check(run(script, tmp_path), tmp_path) == ["1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_starts_its_own_and_leaves_the_parents(tmp_path: Path) -> None:
    script = """
        parent = tinkex.ServiceClient("local")
        print(url(parent), flush=True)
        pid = os.fork()
        print(url(tinkex.ServiceClient("local") if pid == 0 else parent), flush=True)
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
            print(url(parent))
    """
    first, *both, last = check(run(script, tmp_path), tmp_path)
    assert first == last
    assert len({*both}) == 2


def test_a_copy_of_a_sampler_finds_the_server_wherever_it_is_unpacked(tmp_path: Path) -> None:
    script = """
        import pickle, subprocess

        with tinkex.ServiceClient("local") as service:
            sampler = service.create_sampling_client(base_model="fake/base")
            sample = sampler.sample([1, 2], 1, {"max_tokens": 3, "seed": 1}).result()
            tokens = sample.sequences[0].tokens
            elsewhere = '''
        import pickle, sys

        with pickle.load(sys.stdin.buffer) as sampler:
            sample = sampler.sample([1, 2], 1, {"max_tokens": 3, "seed": 1}).result()
            print(sample.sequences[0].tokens)
            '''
            copied = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(elsewhere)],
                input=pickle.dumps(sampler),
                capture_output=True,
            )
        print(copied.stdout.decode().strip() == str(tokens) or copied)
    """
    assert check(run(script, tmp_path), tmp_path) == ["True"]


def test_a_missing_dependency_is_named(tmp_path: Path) -> None:
    script = """
        import importlib.util

        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == "torch" else found(name)
        tinkex.local.serve = tinkex.local.serve.func
        try:
            tinkex.ServiceClient("local").get_server_capabilities()
        except tinkex.ConfigError as error:
            print(error.message)
    """
    [said] = check(run(script, tmp_path), tmp_path)
    assert "base_url 'local' asks for a server in this process, which could not be started" in said
    assert "the embedded server needs torch: run `pip install torch`" in said
