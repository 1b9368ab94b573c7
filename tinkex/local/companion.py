"""A server beside a program: `python -m tinkex.local.companion DATA_DIR MODEL…`, started by
`tinkex.local.beside`. An empty DATA_DIR is a temporary folder.

It prints lines of JSON: what it is `doing`, and at last its `base_url` or the `error` for which it
cannot start. It serves until its standard input is closed, which happens when the program ends.
"""

from __future__ import annotations

import json
import os
import sys

_STARTING = "importing its packages, reading the configuration of its models and opening its port"


def main(data_dir: str, models: list[str]) -> int:
    """Serves the models until standard input is closed. Returns the exit status."""
    _leave_parent()
    try:
        _say({"doing": _STARTING})
        from tinkex.local import serve

        with serve(models or "tinkex/tiny", data_dir=data_dir or None) as server:
            _say({"base_url": server.base_url})
            sys.stdin.buffer.read()
    except Exception as error:  # noqa: BLE001 - the process that started this one reports it
        _say({"error": " ".join(str(error).split())})
        return 1
    return 0


def _leave_parent() -> None:
    """Continues in a process that is no child of the program's.

    Programs that wait for all their children would otherwise wait for this one, which waits for
    them to end.
    """
    if hasattr(os, "fork") and os.fork():
        os._exit(0)


def _say(line: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
