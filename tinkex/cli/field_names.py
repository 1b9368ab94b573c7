"""Names of fields in options such as `--json=id,model`."""

from __future__ import annotations

from collections.abc import Sequence

from tinkex.cli.exit_codes import ExitCode
from tinkex.cli.failures import Failure, current_path


def named_fields(text: str, option: str, known: Sequence[str]) -> list[str]:
    """Returns the fields that an option names, with commas between them.

    Raises:
        Failure: there is no such field; the message lists all.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise Failure(
            f"{option}: there is no field {', '.join(unknown)}; the fields are {', '.join(known)}",
            code=ExitCode.USAGE,
            hint=f"{current_path()} {option}={','.join(known[:2])}",
        )
    return names
