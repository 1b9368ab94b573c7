"""`VllmProcess`: one vLLM that the server has started, from its start to its exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence

logger = logging.getLogger("tinkex.local.vllm")

_KEPT = 400  # lines of the log
_SHOWN = 3  # of its last lines, in errors
_CLOSING = 10.0  # seconds to end by itself
# run by the interpreter of vLLM; Linux ends the process when the server dies
_STARTER = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
server = ["-m", "vllm.entrypoints.openai.api_server"]
os.execv(sys.executable, [sys.executable, *server, *sys.argv[1:]])
"""
_ERROR = re.compile(r"\b(?:\w+\.)*\w*(?:Error|Exception|error): .+")
_PREFIX = re.compile(r"^(\(\w+ pid=\d+\) )?((ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^\]]+\] ?)?")
_ADVICE: Sequence[tuple[str, str]] = (
    (
        r"No module named '?\"?vllm",
        "vLLM is not installed there: install it into the environment of --vllm-python",
    ),
    (r"[Aa]ddress already in use", "the port is taken: choose another with --vllm-args"),
    (
        r"[Oo]ut of memory|OutOfMemory|MemoryError|Cannot allocate memory"
        r"|memory for the cache blocks|KV cache memory|less than desired|[Aa]vailable memory",
        "memory does not suffice: give vLLM less with --vllm-args (--gpu-memory-utilization, "
        "--max-model-len, --max-loras; VLLM_CPU_KVCACHE_SPACE on a CPU), or train elsewhere",
    ),
    (
        r"not a local folder and is not a valid model|does not appear to have a file"
        r"|Repository Not Found|RepositoryNotFound|LocalEntryNotFound|Can't load the configuration",
        "vLLM cannot find the base model: give its folder as --model NAME=FOLDER",
    ),
    (r"unrecognized arguments", "this release of vLLM does not know an argument"),
    (
        r"not supported for now|are not supported|does not support LoRA",
        "this release of vLLM does not support the base model, or adapters on it",
    ),
)


class VllmProcess:
    """A running process, made by `start`, in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._log: deque[str] = deque(maxlen=_KEPT)
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, python: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> VllmProcess:
        """Starts vLLM. Raises `OSError` if the interpreter cannot be run."""
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            _STARTER,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            limit=1 << 20,
            start_new_session=True,  # Ctrl-C is for the server, which then ends vLLM
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> str:
        """Waits until the process has exited; returns the reason, as a phrase that follows "vLLM".
        Processes that it has started are ended.
        """
        code = await self._process.wait()
        self._signal(signal.SIGKILL)
        # a grandchild may hold the pipe open
        await asyncio.wait([self._reader], timeout=1.0)
        return explain_exit(code, list(self._log))

    def kill(self) -> None:
        """Ends the process at once; `wait` then returns."""
        self._signal(signal.SIGKILL)

    async def close(self) -> None:
        """Ends the process, at first gently."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), _CLOSING)
        except TimeoutError:
            logger.info("vLLM did not end in %.0f s, and is killed", _CLOSING)
        self._signal(signal.SIGKILL)
        await self._process.wait()
        self._reader.cancel()

    def _signal(self, number: int) -> None:
        """Sends a signal to the group, whose id is that of its first process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read(self) -> None:
        assert self._process.stdout
        while line := await _line(self._process.stdout):
            text = line.decode("utf-8", "replace").rstrip()
            self._log.append(text)
            logger.debug("%s", text)


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the limit, as no line of vLLM's is
        return b"(a line that is too long)\n"


def explain_exit(code: int, log: Sequence[str]) -> str:
    """Returns the reason of an exit, as a phrase that follows "vLLM", from its exit code and the
    lines of its log.
    """
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        memory = " (perhaps because memory ran out)" if name == "SIGKILL" else ""
        return f"was killed by {name}{memory}"
    text = "\n".join(log)
    advice = next((hint for pattern, hint in _ADVICE if re.search(pattern, text)), None)
    errors = [found[0] for line in log if (found := _ERROR.search(line))]
    # the first error is the cause; those after it are of the processes that waited
    cause = errors[0] if errors else " / ".join(_PREFIX.sub("", line) for line in log[-_SHOWN:])
    said = f": {cause[:400]}" if cause else " and wrote nothing"
    return f"ended with exit code {code}{said}{f' ({advice})' if advice else ''}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment_for_vllm(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of the process, without what would make its interpreter import the
    server's packages.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return {
        "VLLM_NO_USAGE_STATS": "1",
        # on a CPU, each vLLM would bind its threads to the same cores, which torch uses, too
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **kept,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "PYTHONUNBUFFERED": "1",
    }


def supported() -> bool:
    """Returns whether vLLM can be started on this platform."""
    return sys.platform != "win32"
