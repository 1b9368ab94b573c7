"""Examples in docstrings."""

from __future__ import annotations

import re
from textwrap import dedent


def indented_example(docstring: str) -> str:
    """Returns the code below the line `Example:`; empty where there is none."""
    found = re.search(r"^Example:\n((?:[ \t]+\S.*\n?|\n)+)", docstring, re.MULTILINE)
    return dedent(found[1]) if found and ">>>" not in found[1] else ""
