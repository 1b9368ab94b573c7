"""Measures what `pip install tinkex` puts on a disk, for docs/performance.md: builds the wheel of
this tree, installs it into an environment of its own, and prints the size of each package.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from attrs import frozen
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FIXED = ("attrs", "httpx", "numpy", "tenacity", "tokenizers")
"""The packages that no release of tinkex can do without."""
_BLOCK = 4096  # bytes: a file takes whole blocks of a disk


@frozen
class Size:
    """The size of an installed package in bytes."""

    files: int
    bytecode: int
    """The size of what pip compiles, unless it is told --no-compile."""

    @property
    def whole(self) -> int:
        return self.files + self.bytecode


def main() -> int:
    """Installs and measures. Returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        site = install(Path(folder))
        installed = {canonicalize_name(each.name): each for each in distributions(path=[str(site)])}
        sizes = {name: size_of(each) for name, each in installed.items()}
        floor = closure(installed, FIXED)
    print(f"{'package':22} {'MB':>7} {'bytecode':>9}")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1].whole):
        mark = "  *" if name in floor else ""
        print(f"{name:22} {size.whole / 1e6:7.1f} {size.bytecode / 1e6:9.1f}{mark}")
    show("all", sizes.values())
    show(f"* {', '.join(FIXED)}, with what they need", [sizes[name] for name in floor])
    return 0


def show(title: str, sizes: Iterable[Size]) -> None:
    sizes = list(sizes)
    whole, bytecode = sum(size.whole for size in sizes), sum(size.bytecode for size in sizes)
    print(f"{title}: {whole / 1e6:.0f} MB, without bytecode {(whole - bytecode) / 1e6:.0f} MB")


def install(folder: Path) -> Path:
    """Installs this tree into a new environment without pip. Returns its site-packages."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels, environment = folder / "wheels", folder / "environment"
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", wheels, ROOT], check=True)
    [wheel] = wheels.glob("*.whl")
    venv.create(environment)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run([*pip, "--python", str(python), "install", "--quiet", wheel], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
    return Path(found.stdout.strip())


def size_of(package: Distribution) -> Size:
    """Returns the size of a package, as its list of files has it."""
    sizes = {False: 0, True: 0}
    for file in map(Path, map(package.locate_file, package.files or ())):
        if file.is_file():
            sizes[file.suffix == ".pyc"] += -(-file.stat().st_size // _BLOCK) * _BLOCK
    return Size(sizes[False], sizes[True])


def closure(installed: Mapping[str, Distribution], names: Iterable[str]) -> set[str]:
    """Returns these packages and all that they require here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(required(installed[name]))
    return found


def required(package: Distribution) -> Iterator[str]:
    """Yields the names of what a package requires, without its extras."""
    for text in package.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


if __name__ == "__main__":
    sys.exit(main())
