"""An extension of griffe, which reads docstrings for the documentation site: the section `Example:`
of a docstring is code, where griffe would show it as a remark.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example:\n((?:[ \t]+\S.*\n?|\n)+)", re.MULTILINE)


class Examples(griffe.Extension):
    """The extension, which griffe makes itself."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Turns the example of an object's docstring into a block of Python."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_as_code, obj.docstring.value)


def _as_code(section: re.Match[str]) -> str:
    code = "\n".join(line[4:] for line in section[1].rstrip().split("\n"))
    return f"**Example**\n\n```python\n{code}\n```\n"
