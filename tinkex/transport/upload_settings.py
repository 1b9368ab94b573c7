"""`UploadSettings`: connects to other servers than the client's own, for uploads to signed URLs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import field, frozen

from tinkex.config import Config
from tinkex.config.proxies import Proxies, Proxy
from tinkex.transport import certificates

if TYPE_CHECKING:
    import httpx


@frozen
class UploadSettings:
    """The settings of a client that apply to all servers: its proxies and certificates."""

    proxies: Proxies
    proxy_headers: Mapping[str, str] = field(factory=dict[str, str], repr=False)
    certificates: tuple[tuple[str, str], ...] = ()
    """The variables that name trusted certificates, with their values."""

    @classmethod
    def of(cls, config: Config) -> UploadSettings:
        """Takes the settings of a client."""
        trusted = certificates.read_variables(config.sources.environment)
        return cls(config.proxies, config.proxy_headers, trusted)

    @classmethod
    def of_environment(cls) -> UploadSettings:
        """Reads the variables for proxies and certificates."""
        proxies = Proxies.of_environment(os.environ)
        return cls(proxies, certificates=certificates.read_variables(os.environ))

    def proxy_of(self, url: httpx.URL) -> Proxy | None:
        """Returns the proxy for a URL; None if the server is connected to directly."""
        return self.proxies.of(f"{url.scheme}://{url.netloc.decode('ascii')}")

    def connect(self, url: httpx.URL, timeout: float) -> httpx.Client:
        """Returns a blocking HTTP client for a URL. The caller closes it."""
        import httpx  # here, because the import is slow

        proxy = self.proxy_of(url)
        return httpx.Client(
            proxy=None if proxy is None else self._for_httpx(proxy),
            verify=certificates.tls_context(self.certificates),
            timeout=timeout,
            trust_env=False,  # among others a .netrc, whose password a store would refuse
        )

    def _for_httpx(self, proxy: Proxy) -> httpx.Proxy:
        import httpx

        return httpx.Proxy(proxy.address, headers={**proxy.authorization, **self.proxy_headers})
