"""`install()`: `import tinker` gives tinkex in this process and in those that it starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.programs import outcome_of, run_text, written
from tinkex.dropin import COMMANDS, FOLDER, put_first

IMPORTS = """
    import tinkex.dropin
    tinkex.dropin.install()
    tinkex.dropin.install()
    assert tinkex.dropin.installed()

    import importlib.metadata, sys
    import tinker
    import tinker.types.tensor_data
    from tinker import types, ServiceClient
    from tinker.types import LossFnType
    from tinker.lib.public_interfaces.rest_client import RestClient
    from tinker.lib.public_interfaces.api_future import APIFuture, AwaitableConcurrentFuture
    from tinker.lib.retry_handler import RetryConfig
    from tinker.lib.base_url import DEFAULT_BASE_URL
    from tinker._exceptions import APIStatusError
    from tinker import *
    import tinkex

    assert tinker.__file__ == str(tinkex.dropin.FOLDER / "tinker" / "__init__.py")
    assert tinker.types.image_chunk.ImageChunk is tinkex.ImageChunk is types.ImageChunk
    assert tinker.types.tensor_data.TensorData is TensorData is tinkex.TensorData
    assert tinker.lib.public_interfaces.RestClient is RestClient is tinker.RestClient
    assert tinker.auth.tinker_has_credentials is tinkex.auth.tinker_has_credentials
    assert issubclass(APIStatusError, tinker.TinkerError)
    assert importlib.metadata.version("tinker") == tinker.__version__
    assert sum(isinstance(f, tinkex.dropin.DropInFinder) for f in sys.meta_path) == 1

    errors = []
    for statement in (
        "import tinker._client",
        "from tinker import RequestOptions",
        "from tinker.types.datum import Datun",
        "tinker.ServiceCleint",
        "from tinker.lib import internal_client_holder",
    ):
        try:
            exec(statement)
        except (ImportError, AttributeError) as error:
            errors.append(type(error).__name__)
            assert "has no counterpart in tinkex" in str(error), error
    assert not hasattr(tinker, "RequestOptions")
    print(*errors)
"""


def test_modules_and_names_are_those_of_tinkex(tmp_path: Path) -> None:
    assert run_text(IMPORTS, tmp_path).split() == [
        *["ModuleNotFoundError"] * 3,
        "AttributeError",
        "ModuleNotFoundError",
    ]


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder with a package of the official SDK's name."""
    written(tmp_path, "site/tinker/__init__.py", "official = True\n")
    written(tmp_path, "site/tinker/types.py", "")
    written(tmp_path, "site/tinker-0.1.0.dist-info/METADATA", "Name: tinker\nVersion: 0.1.0\n")
    return tmp_path / "site"


def test_it_goes_before_the_official_package(official: Path, tmp_path: Path) -> None:
    run_text(f"\n    import sys; sys.path.insert(0, {str(official)!r})\n{IMPORTS}", tmp_path)


def test_it_refuses_when_the_official_package_is_in_use(official: Path, tmp_path: Path) -> None:
    program = f"""
        import sys
        sys.path.insert(0, {str(official)!r})
        import tinker
        from tinkex.dropin import install, installed
        try:
            install()
        except ImportError as error:
            print(error)
        assert not installed()
        assert tinker.official
    """
    said = run_text(program, tmp_path)
    assert f"tinker was imported from {official}" in said
    assert "before the first import of tinker" in said


CHILDREN = """
    import tinkex.dropin
    tinkex.dropin.install()

    import multiprocessing, pickle, subprocess, sys
    import tinker

    def in_child(params):
        import tinker
        return tinker.__spec__.origin, params.max_tokens, tinker.ModelInput.from_ints([1, 2])

    if __name__ == "__main__":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            origin, tokens, prompt = pool.apply(in_child, (tinker.SamplingParams(max_tokens=3),))
        assert prompt.to_ints() == [1, 2] and type(prompt) is tinker.ModelInput
        print(origin, tokens)
        error = tinker.RateLimitError("slow down", status_code=429)
        given = pickle.dumps([tinker.Datum(prompt, {}), error])
        child = (
            "import pickle, sys; from importlib.metadata import version; v = version('tinker');"
            "import tinker; datum, error = pickle.load(sys.stdin.buffer);"
            "assert isinstance(datum, tinker.Datum) and isinstance(error, tinker.RateLimitError);"
            "print(tinker.__spec__.origin, v)"
        )
        done = subprocess.run([sys.executable, "-c", child], input=given, stdout=subprocess.PIPE)
        print(done.stdout.decode())
"""


def test_processes_that_are_started_have_it_too(official: Path, tmp_path: Path) -> None:
    """Also where the official package is installed, and PYTHONPATH had other folders."""
    said = run_text(CHILDREN, tmp_path, PYTHONPATH=_with(official))
    assert said.split() == ["tinkex.dropin", "3", "tinkex.dropin", "0.38.0"]


def test_what_the_environment_runs_at_the_start_still_runs(tmp_path: Path) -> None:
    site = written(tmp_path, "site/sitecustomize.py", "print('site customized')\n").parent
    said = run_text(CHILDREN, tmp_path, PYTHONPATH=_with(site))
    assert said.count("site customized") >= 3  # in the program and in both of its children


def _with(folder: Path) -> str:
    return os.pathsep.join((os.environ.get("PYTHONPATH", ""), str(folder)))


def test_an_interpreter_without_tinkex_says_what_it_lacks(tmp_path: Path) -> None:
    done = outcome_of(
        [sys.executable, "-S", "-c", "import tinker"],
        environment={"PYTHONPATH": str(FOLDER)},
        folder=tmp_path,
    )
    assert done.returncode == 1
    assert "Install tinkex in that environment" in done.stderr
    assert str(FOLDER) in done.stderr


def test_the_folder_is_put_on_the_path_once() -> None:
    environment: dict[str, str] = {"PYTHONPATH": "a:b", "PATH": "c::d"}
    for _ in range(2):
        put_first(environment)
    ours = f"{COMMANDS}:{Path(sys.executable).parent}"
    assert environment == {"PYTHONPATH": f"{FOLDER}:a:b", "PATH": f"c::d:{ours}"}
    for nothing in ({}, {"PYTHONPATH": ""}):
        put_first(nothing)
        assert nothing == {"PYTHONPATH": str(FOLDER), "PATH": f"{os.defpath}:{ours}"}


def test_an_empty_entry_of_the_path_stays_the_working_folder() -> None:
    environment = {"PYTHONPATH": ":a"}
    put_first(environment)
    assert environment["PYTHONPATH"] == f"{FOLDER}::a"
