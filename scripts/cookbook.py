"""tinker-cookbook as it is published, for scripts/test_dropin.py: a venv under .cache/dropin for
each release, and its sources, which hold tests that no wheel has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
from importlib.metadata import PathDistribution
from pathlib import Path

from official_sdk import ROOT, share_ours

CACHE = ROOT / ".cache" / "dropin"
VERSIONS = ("0.6.1", "0.5.8")
TINKER = "0.38.0"
EXTRAS = ("math-rl",)  # the graders of mathematical answers
TOOLS = ("pytest-asyncio", "pytest-timeout")
# It reads and writes the chats of one family of models. Registries do not have every release of it
# for every Python, so that the newest that there is must do.
ANY_RELEASE = ("tml-renderers",)
# a program that trains by the cookbook; it asks for an old release of the official SDK
RLCLI = "polygramme-rlcli==0.1.0"


def python_with(version: str) -> Path:
    """Returns the interpreter of a venv with that release of the cookbook, the official SDK and
    what both require, and makes it if needed.

    It finds what it lacks among our packages, torch above all.
    """
    folder = CACHE / version
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        venv.create(folder, clear=True)
        packages = share_ours(folder)
        _pip(python, "install", "--no-deps", f"tinker-cookbook=={version}", RLCLI)
        _pip(python, "install", f"tinker=={TINKER}", *TOOLS, *_requirements(packages))
        (folder / ".ready").touch()
    return python


def sources(version: str) -> Path:
    """Returns the folder of its source distribution."""
    folder = CACHE / f"tinker_cookbook-{version}"
    if not folder.exists():
        wanted = ("--no-deps", "--no-binary", "tinker-cookbook", f"tinker-cookbook=={version}")
        _pip(Path(sys.executable), "download", "--dest", CACHE, *wanted)
        with tarfile.open(CACHE / f"{folder.name}.tar.gz") as archive:
            # Python before 3.11.4 has no filters; it is an archive of the registry
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(CACHE)
    return folder


def _requirements(packages: Path) -> list[str]:
    """Returns what the cookbook in this folder requires, for pip."""
    [metadata] = packages.glob("tinker_cookbook-*.dist-info")
    wanted: list[str] = []
    for line in PathDistribution(metadata).requires or ():
        requirement, _, marker = line.partition(";")
        if marker and not any(f"extra == '{extra}'" in marker for extra in EXTRAS):
            continue
        name = re.split(r"[<>=!~\[ ]", requirement, maxsplit=1)[0]
        wanted.append(name if name in ANY_RELEASE else requirement.strip())
    return wanted


def _pip(python: Path, *arguments: object) -> None:
    command = (sys.executable, "-m", "pip", "--python", python, arguments[0], "--quiet")
    quick = ("--no-compile",) if arguments[0] == "install" else ()
    # pip warns of what the cookbook wanted otherwise, and of registries that lack a package
    ran = subprocess.run(
        [*command, *quick, *arguments[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if ran.returncode:
        raise RuntimeError(f"pip {arguments} failed: {ran.stdout.decode()}")
