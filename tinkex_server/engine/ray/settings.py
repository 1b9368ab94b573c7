"""`RaySettings`: what a user chooses about the engine on Ray. It needs no Ray."""

from __future__ import annotations

from attrs import field, frozen, validators

from tinkex_server.engine.interface import InvalidRequest
from tinkex_server.engine.vllm.settings import VllmSettings


@frozen(kw_only=True)
class RaySettings:
    """The cluster, and the actors for each base model.

    Raises `ValueError` for numbers that no actor could have.
    """

    address: str | None = None
    """The address of a cluster, as "10.0.0.1:6379" or "auto". None: a cluster of its own on this
    machine, which ends with the server.
    """
    train_gpus: float = field(default=0.0, validator=validators.ge(0))
    """The GPUs of each trainer, and of each sampler, which holds the same base model."""
    train_cpus: float = field(default=1.0, validator=validators.gt(0))
    """The CPU cores of each trainer; a sampler, also one with a vLLM, has one."""
    train_replicas: int = field(default=1, validator=validators.ge(1))
    """The number of trainers of each base model, which share each batch."""
    samplers: int = field(default=1, validator=validators.ge(1))
    """The number of samplers of each base model."""


def check_fit(settings: RaySettings, vllm: VllmSettings) -> None:
    """Raises `InvalidRequest` for choices that exclude each other."""
    if vllm.urls and settings.samplers > 1:
        raise InvalidRequest(
            f"--samplers {settings.samplers} asks Ray to start vLLMs, and --vllm-url names vLLMs "
            "that you run: give --vllm-python in its place, or leave --samplers out and repeat "
            "--vllm-url for each replica"
        )
    if vllm.python and vllm.adapters:
        raise InvalidRequest(
            "--vllm-adapters is for vLLMs that you run (--vllm-url): one that Ray places reads "
            "adapters from its own node, to which they are sent. Leave it out"
        )
    if vllm.python and any(one.startswith("--port") for one in vllm.args):
        raise InvalidRequest(
            "--vllm-args has a --port, which two vLLMs on one node cannot share: leave it out, so "
            "that each takes a free one"
        )
