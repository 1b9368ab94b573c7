"""Which certificates of servers are trusted: those that a variable names, else the system's and
certifi's.
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
"""Where systems keep theirs; a Python that was built elsewhere looks in another place."""


def named(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Returns the variables that name certificates, with their values."""
    return tuple((name, environment[name]) for name in VARIABLES if name in environment)


def in_words(environment: Mapping[str, str]) -> str:
    """Returns whose certificates are trusted."""
    return (
        " and ".join(f"{name}={value}" for name, value in named(environment))
        or "the system and certifi"
    )


@lru_cache(maxsize=8)
def context(named: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    """Returns the TLS settings of a client, made once for all since loading certificates takes its
    time.

    Args:
        named: variables and values; none means the system's certificates and certifi's.

    Raises:
        ConfigError: a file that a variable names is not there, or holds no certificates.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name, value in named:
        _load(made, name, value)
    if not named:
        _load_default(made)
    return made


def _load(made: ssl.SSLContext, name: str, value: str) -> None:
    """Adds a file, or folders, whose names are made by OpenSSL's `rehash`."""
    folders = [path for path in value.split(os.pathsep) if Path(path).is_dir()]
    try:
        for folder in folders:
            made.load_verify_locations(capath=folder)
        # of folders those that are not there are passed over, as OpenSSL does
        if not folders and name != "SSL_CERT_DIR":
            made.load_verify_locations(cafile=value)
    except OSError as error:  # an ssl.SSLError is one
        raise ConfigError(
            f"{name} is {value!r}, which cannot be read as certificates: {error}",
            advice="Name a file of certificates in PEM form, or remove the variable.",
        ) from error


def _load_default(made: ssl.SSLContext) -> None:
    import certifi  # here, since few talk to an https:// server

    made.load_default_certs()
    places = ssl.get_default_verify_paths()
    if not (places.cafile or places.capath):
        for file in filter(os.path.isfile, _FILES_OF_SYSTEMS):
            made.load_verify_locations(cafile=file)
            break
    made.load_verify_locations(cafile=certifi.where())
