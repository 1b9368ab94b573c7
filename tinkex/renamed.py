"""`warn_renamed`: the warning of public names that have a new one."""

from __future__ import annotations

import warnings


def warn_renamed(old: str, new: str) -> None:
    """Warns that a program uses an old name, which the next release removes.

    The warning points to the caller of the property or function that calls this.
    """
    warnings.warn(
        f"{old} is now {new}; the next release removes the old name",
        DeprecationWarning,
        stacklevel=3,
    )
