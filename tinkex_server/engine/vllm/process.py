"""`VllmProcess`: one vLLM that the server has started, from its start to its exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from tinkex_server.engine.process.restart import killed_by

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
    """A running process, in a process group of its own, since it starts others.

    Threads wait for it and read its log: asyncio's own processes count as running for as long as a
    grandchild holds their output open.
    """

    def __init__(
        self, python: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """Starts vLLM. Raises `OSError` if the interpreter cannot be run."""
        self._log: deque[str] = deque(maxlen=_KEPT)
        self._exit: Future[int] = Future()
        self._process = subprocess.Popen(
            [python, "-c", _STARTER, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for the server, which then ends vLLM
        )
        self._reader = threading.Thread(target=self._read, name="tinkex-vllm-log", daemon=True)
        self._reader.start()
        threading.Thread(target=self._await_exit, name="tinkex-vllm-exit", daemon=True).start()

    async def wait(self) -> str:
        """Waits until the process has exited; returns the reason, as a phrase that follows "vLLM".
        Processes that it has started are ended.
        """
        code = await self._exit_code()
        self.kill()
        await asyncio.to_thread(self._reader.join, 1.0)
        return explain_exit(code, list(self._log))

    def kill(self) -> None:
        """Ends the process, and all that it has started, at once; `wait` then returns."""
        self._signal(signal.SIGKILL)

    async def close(self) -> None:
        """Ends the process, at first gently."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._exit_code(), _CLOSING)
        except TimeoutError:
            logger.info("vLLM did not end in %.0f s, and is killed", _CLOSING)
        self.kill()
        await self._exit_code()

    async def _exit_code(self) -> int:
        # several wait for it, and none may cancel it
        return await asyncio.shield(asyncio.wrap_future(self._exit))

    def _await_exit(self) -> None:
        self._exit.set_result(self._process.wait())

    def _signal(self, number: int) -> None:
        """Sends a signal to the group, whose id is that of its first process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as output:
            for line in output:
                text = line.decode("utf-8", "replace").rstrip()
                self._log.append(text)
                logger.debug("%s", text)


def explain_exit(code: int, log: Sequence[str]) -> str:
    """Returns the reason of an exit, as a phrase that follows "vLLM", from its exit code and the
    lines of its log.
    """
    if code < 0:
        return killed_by(-code, " (perhaps because memory ran out)")
    text = "\n".join(log)
    advice = next((hint for pattern, hint in _ADVICE if re.search(pattern, text)), None)
    errors = [found[0] for line in log if (found := _ERROR.search(line))]
    # the first error is the cause; those after it are of the processes that waited
    cause = errors[0] if errors else " / ".join(_PREFIX.sub("", line) for line in log[-_SHOWN:])
    if cause.count(")") > cause.count("("):  # Python puts some errors in parentheses
        cause = cause.removesuffix(")")
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
