"""Loads the certificates that are trusted: those that a variable names, else those of the system
and certifi.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from tinkex.errors import ConfigError

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_FILES_OF_SYSTEMS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""The files in which systems keep certificates. A Python built elsewhere does not find them."""


def read_variables(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns the variables that name certificates, with their values."""
    return tuple((name, environment[name]) for name in VARIABLES if name in environment)


def describe(environment: Mapping[str, str]) -> str:
    """Returns a description of the trusted certificates."""
    return (
        " and ".join(f"{name}={value}" for name, value in read_variables(environment))
        or "the system and certifi"
    )


@lru_cache(maxsize=8)
def tls_context(named: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    """Returns the TLS settings of a client. They are cached, since loading certificates is slow.

    Args:
        named: variables and values; if empty, the system's and certifi's certificates are trusted.

    Raises:
        ConfigError: a file that a variable names does not exist, or holds no certificates.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name, value in named:
        _load(made, name, value)
    if not named:
        _load_default(made)
    return made


def _load(made: ssl.SSLContext, name: str, value: str) -> None:
    """Adds the certificates of a file, or of folders that OpenSSL's `rehash` has prepared."""
    folders = [path for path in value.split(os.pathsep) if Path(path).is_dir()]
    try:
        for folder in folders:
            made.load_verify_locations(capath=folder)
        # folders that do not exist are ignored, as OpenSSL does
        if not folders and name != "SSL_CERT_DIR":
            made.load_verify_locations(cafile=value)
    except OSError as error:  # an ssl.SSLError is one
        raise ConfigError(
            f"no certificates can be read from {name}={value!r}: {error}",
            advice="Name a file of certificates in PEM format, or remove the variable.",
        ) from error


def _load_default(made: ssl.SSLContext) -> None:
    import certifi  # here, since clients of http:// servers do not need it

    made.load_default_certs()
    places = ssl.get_default_verify_paths()
    if not (places.cafile or places.capath):
        for file in filter(os.path.isfile, _FILES_OF_SYSTEMS):
            made.load_verify_locations(cafile=file)
            break
    made.load_verify_locations(cafile=certifi.where())
