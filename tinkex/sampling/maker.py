"""`MakesSamplers`: what this layer knows of a service client, which is a layer above it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

C_co = TypeVar("C_co", covariant=True)


class MakesSamplers(Protocol[C_co]):
    """A service client."""

    @property
    def create_sampling_client(self) -> Callable[..., C_co]: ...
