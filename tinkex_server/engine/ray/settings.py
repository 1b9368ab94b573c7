"""`RaySettings`: what a user chooses about the engine on Ray. It needs no Ray."""

from __future__ import annotations

from attrs import field, frozen, validators


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
    """The CPU cores of each trainer; a sampler has one."""
    samplers: int = field(default=1, validator=validators.ge(1))
    """The number of samplers of each base model."""
