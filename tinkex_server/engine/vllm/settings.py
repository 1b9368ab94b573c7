"""`VllmSettings`: where vLLM is, and how it is started."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from tinkex_server.engine.interface import InvalidRequest, LoraShape

MAX_DIFFERENCE = 0.18
"""The largest difference of a logprob between both engines that is accepted, in nats: ln 1.2. A
larger one alone would take a token beyond the usual clip range of PPO, 0.2, so that gradients would
depend on the engine rather than on the policy. Equal precisions differ by about 1e-5 in float32 and
0.05 in bfloat16.
"""


RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM allows for the largest rank of an adapter."""
_MAX_LORA_RANK = 64
_RANK_ARGUMENT = re.compile(r"--max[-_]lora[-_]rank(?: +|=)(\d+)")


@frozen(kw_only=True)
class VllmSettings:
    """The place of vLLM. Either `python` is set, and the server starts one vLLM for each base
    model, or `urls`, and it uses the ones that are running there.
    """

    python: str | None = None
    """The Python interpreter of the environment that vLLM is installed in."""
    args: Sequence[str] = ()
    """Further arguments of `vllm serve`, which win over those of the server."""
    urls: Sequence[str] = ()
    """The addresses of running vLLMs, all of which serve the same base models."""
    adapters: Path | None = None
    """The folder in which adapters are put for vLLM; None is a temporary folder. For a vLLM on
    another machine it must be on a disk that both have at the same path.
    """
    max_difference: float = MAX_DIFFERENCE
    """The largest difference of a logprob between vLLM and the training engine, in nats, with which
    the server starts.
    """

    def __attrs_post_init__(self) -> None:
        if bool(self.python) == bool(self.urls):
            raise InvalidRequest(
                "sampling by vLLM needs either --vllm-python, the interpreter of an environment "
                "with vLLM, to start one, or --vllm-url, the address of one that is running"
            )
        if self.python and shutil.which(self.python) is None:
            raise InvalidRequest(
                f"--vllm-python {self.python} is not a program that can be run: give the path of "
                "the Python interpreter of an environment in which vLLM is installed"
            )
        if self.args and self.urls:
            raise InvalidRequest(
                "--vllm-args are for a vLLM that the server starts; give those of --vllm-url to "
                "the command that starts it"
            )
        if not self.max_difference > 0:
            raise InvalidRequest(
                f"--vllm-max-difference is {self.max_difference}; it must be above 0"
            )

    @property
    def max_lora_rank(self) -> int | None:
        """The largest rank of an adapter that vLLM takes; None if the server does not start it."""
        if not self.python:
            return None
        chosen = _RANK_ARGUMENT.findall(" ".join(self.args))
        return int(chosen[-1]) if chosen else _MAX_LORA_RANK

    def warnings(self, lora: LoraShape) -> Sequence[str]:
        """Returns what the user who creates a model of this shape should know."""
        most = self.max_lora_rank
        if most is None or lora.rank <= most:
            return []
        needed = next((rank for rank in RANKS if rank >= lora.rank), RANKS[-1])
        return [
            f"the adapter has rank {lora.rank}, and vLLM takes ranks up to {most}: it can be "
            "trained, but sampled only after a restart of the server with "
            f'--vllm-args "--max-lora-rank {needed}"'
        ]
