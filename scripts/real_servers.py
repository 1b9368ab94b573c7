"""Servers that others made, from the package index: each in a venv of its own under .cache/servers,
on a tiny random model.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from attrs import frozen

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "servers"
KEY = "tml-try"
STARTS_WITHIN = 300.0  # seconds
INSTALLS_WITHIN = 1800.0  # seconds

_UV = """#!{python}
import subprocess, sys
sys.exit(subprocess.run([{server!r}, *sys.argv[sys.argv.index("-m"):]]).returncode)
"""
_HATCHERY = """
import uvicorn
from hatchery.core import local_dev

def bound_here(*arguments, **settings):
    return config(*arguments, **{**settings, "host": "127.0.0.1"})

config, uvicorn.Config = uvicorn.Config, bound_here
local_dev._has_gpu = lambda: True
local_dev.main()
"""
_TUFT = """
import ray
from tuft import cli

ray.init(num_gpus=1, include_dashboard=False, log_to_driver=True)
cli.main()
"""
_WITHOUT_CUDA = """
import sys

if any(word.endswith("default_worker.py") for word in sys.orig_argv):
    import torch

    torch.cuda.reset_peak_memory_stats = lambda *_: None
"""


@frozen
class RealServer:
    """A release of a server, and how it is started on a CPU."""

    dialect: str
    package: str
    release: str
    python: str
    """The release of Python that it wants."""
    start: Callable[[Path, Path, Path, int], tuple[Sequence[str], dict[str, str]]]
    """Gives the command and the variables, by interpreter, model, an empty folder and port."""
    started_by: str = "as its documentation says"
    beside: Sequence[str] = ()
    """The packages to install instead of the declared dependencies, where some of those need a
    GPU.
    """


def _skyrl(
    python: Path, model: Path, folder: Path, port: int
) -> tuple[Sequence[str], dict[str, str]]:
    uv = folder / "uv"
    uv.write_text(_UV.format(python=sys.executable, server=str(python)))
    uv.chmod(0o755)
    backend = {"max_lora_adapters": 32, "max_lora_rank": 8}
    command = [
        str(uv),
        "run",
        "-m",
        "skyrl.tinker.api",
        "--base-model",
        str(model),
        "--backend",
        "jax",
    ]
    command += ["--backend-config", json.dumps(backend), "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--checkpoints-base",
        str(folder / "checkpoints"),
        "--database-url",
        f"sqlite:///{folder}/tinker.db",
    ]
    return command, {"PATH": f"{folder}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}


def _hatchery(
    python: Path, model: Path, folder: Path, port: int
) -> tuple[Sequence[str], dict[str, str]]:
    settings = {
        "PORT": str(port),
        "BASE_MODEL": str(model),
        "DEVICE": "cpu:0",
        "API_KEY": KEY,
        "RANK": "8",
    }
    variables = {f"HATCHERY_DEV_{name}": value for name, value in settings.items()}
    return [str(python), "-c", _HATCHERY], {
        **variables,
        "HATCHERY_LOCAL_STORE_PATH": str(folder / "store"),
    }


def _tuft(
    python: Path, model: Path, folder: Path, port: int
) -> tuple[Sequence[str], dict[str, str]]:
    of_model = {
        "model_name": str(model),
        "model_path": str(model),
        "max_model_len": 1024,
        "capabilities": ["training"],
    }
    settings = {
        "checkpoint_dir": str(folder / "checkpoints"),
        "authorized_users": {KEY: "tinkex"},
        "supported_models": [{**of_model, "max_lora_rank": 8, "max_loras": 32}],
    }
    (folder / "tuft.yaml").write_text(json.dumps(settings))
    (folder / "sitecustomize.py").write_text(_WITHOUT_CUDA)
    command = [
        str(python),
        "-c",
        _TUFT,
        "launch",
        "--config",
        str(folder / "tuft.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return command, {"PYTHONPATH": str(folder), "TUFT_HOME": str(folder), "RAY_DEDUP_LOGS": "0"}


_WITHOUT_VLLM = (
    *(
        "accelerate",
        "fastapi>=0.133,<0.137",
        "httpx",
        "numpy",
        "nvidia-ml-py",
        "omegaconf",
        "opentelemetry-api",
        "opentelemetry-sdk",
    ),
    *(
        "opentelemetry-exporter-otlp",
        "opentelemetry-instrumentation-fastapi",
        "opentelemetry-instrumentation-logging",
    ),
    *(
        "peft==0.20.0",
        "protobuf",
        "psutil",
        "ray>=2.50",
        "tinker>=0.25,<0.26",
        "transformers>=5.5.3,<6",
        "typer",
        "uvicorn[standard]",
    ),
)

SERVERS: Sequence[RealServer] = (
    RealServer(
        "skyrl-0.3",
        "skyrl[tinker,jax]",
        "0.3.0",
        "3.12",
        _skyrl,
        "its JAX backend, with a stand-in for uv",
    ),
    RealServer(
        "hatchery",
        "hatchery-core",
        "0.3.0",
        "3.12",
        _hatchery,
        "its development server, whose worker is told that it has a GPU",
    ),
    RealServer(
        "tuft",
        "tuft",
        "0.2.2",
        "3.12",
        _tuft,
        "its Hugging Face trainer, without vLLM and so without samples, with a GPU that Ray is "
        "told of and there is not",
        _WITHOUT_VLLM,
    ),
)


def python_of(server: RealServer) -> Path:
    """Returns the interpreter of a venv that has the server, made if need be. Raises
    `FileNotFoundError` without its Python.
    """
    folder = CACHE / f"{server.dialect}-{server.release}"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run(
            [_python(server.python), "-m", "venv", "--clear", folder],
            check=True,
            timeout=INSTALLS_WITHIN,
        )
        server_alone = ("--no-deps", f"{server.package}=={server.release}")
        rest = (server.beside, server_alone) if server.beside else (server_alone[1:],)
        for packages in (("torch==2.13.0",), *rest):
            install = [python, "-m", "pip", "install", "--quiet", "--no-compile", *packages]
            subprocess.run(install, check=True, timeout=INSTALLS_WITHIN)
        (folder / ".ready").touch()
    return python


def _python(release: str) -> str:
    places = [
        f"python{release}",
        *map(str, Path.home().glob(f".pyenv/versions/{release}.*/bin/python")),
    ]
    for place in places:
        try:
            subprocess.run(
                [place, "-c", "import venv"], check=True, capture_output=True, timeout=60
            )
        except (FileNotFoundError, subprocess.CalledProcessError):
            continue
        return place
    raise FileNotFoundError(f"there is no Python {release}, which the server wants")


@contextmanager
def running(server: RealServer, model: Path) -> Generator[str]:
    """Runs a server and gives its URL; ends it, with the processes that it began. Raises
    `TimeoutError` where it does not start.
    """
    python = python_of(server)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        TemporaryDirectory(prefix="tinkex-real-") as name,
        (CACHE / f"{server.dialect}.log").open("w") as log,
    ):
        command, variables = server.start(python, model, Path(name), port)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", **variables}
        process = subprocess.Popen(
            command, cwd=name, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/api/v1/healthz", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(1)
    raise TimeoutError(f"the server did not start; its log is in {CACHE}")
