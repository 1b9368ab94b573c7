"""The decompression and compression of zstd: that of Python 3.14, or its backport."""

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    # the namespace has no stubs; the package in it has
    from backports import zstd  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["zstd"]
