"""`python -m tinkex`: the command `tinkex`, for an environment where it is not on the PATH."""

from __future__ import annotations

from tinkex.cli import main

main(prog_name="tinkex")
