"""The worked example of docs/guides/api_changes.md, done in a copy of the repository: a field and
an endpoint are added to the contract, and the clients have them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.answering_server import NO_ROUTE, answering, as_json

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "api_changes.md"
COPIED = ("openapi", "scripts", "generated", "tinkex")
SCRIPT = """
import asyncio, sys
from tinkex import AsyncRestClient, RestClient

async def ask(url):
    async with AsyncRestClient(base_url=url, api_key="tml-x") as rest:
        return await rest.get_sampler_statistics("S1:sample:0")

with RestClient(base_url=sys.argv[1], api_key="tml-x") as rest:
    print(rest.get_sampler("S1:sample:0").created_at)
    print(rest.get_sampler_statistics("S1:sample:0").tokens)
    print(rest.get_sampler("S1:sample:1").created_at)
print(asyncio.run(ask(sys.argv[1])).samples)
print(RestClient.get_sampler_statistics.__doc__)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def insert(path: Path, before: str, text: str) -> None:
    """Inserts a text before the one line that begins like this."""
    whole = path.read_text()
    assert whole.count(f"\n{before}") == 1, before
    path.write_text(whole.replace(f"\n{before}", f"\n{text}{before}"))


def generate(root: Path) -> None:
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    paths = {"PYTHONPATH": f"{root}{os.pathsep}{root / 'generated'}"}
    command = [sys.executable, str(root / "scripts" / "generate.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, **tools, **paths}
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


@pytest.mark.slow
def test_a_field_and_an_endpoint_are_added_as_the_guide_says(copy: Path) -> None:
    new_field, new_path, new_schema = blocks("yaml")
    imports, method = blocks("py")
    contract = copy / "openapi" / "tinker.yaml"
    insert(contract, "      example: {sampler_id: ", new_field)
    insert(contract, "  /api/v1/asample:", new_path)
    insert(contract, "    SamplingParams:", new_schema)
    client = copy / "tinkex" / "rest" / "client.py"
    insert(client, "from tinkex_api.types import UNSET, Request", imports)
    insert(client, "    async def list_training_runs(", f"{method}\n")
    generate(copy)
    sampler = {"sampler_id": "S1:sample:0", "base_model": "tinkex/tiny"}
    answers = {
        "/api/v1/samplers/S1:sample:0": sampler | {"created_at": "2026-01-02T03:04:05Z"},
        "/api/v1/samplers/S1:sample:1": sampler,
        "/api/v1/samplers/S1:sample:0/statistics": {"samples": 3, "tokens": 120},
    }

    with answering(
        lambda call: as_json(answers[call.path]) if call.path in answers else NO_ROUTE
    ) as server:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, server.base_url],
            capture_output=True,
            text=True,
            cwd=copy,
            env=os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'generated'}"},
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    created, tokens, absent, samples, *docstring = done.stdout.splitlines()
    assert created == "2026-01-02 03:04:05+00:00"
    assert (tokens, absent, samples) == ("120", "None", "3")
    assert "counts = rest.get_sampler_statistics(sampler.sampling_session_id)" in "\n".join(
        docstring
    )
