"""`CreatesSamplingClients`: a service client, as far as sampling clients know it. The service
client itself belongs to a layer above.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from tinkex.config import RetrySettings

C_co = TypeVar("C_co", covariant=True)


class CreatesSamplingClients(Protocol[C_co]):
    """A service client, whose `create_sampling_client` returns a `C_co`."""

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: RetrySettings | None = None,
        record_stability_info: bool = False,
    ) -> C_co: ...
