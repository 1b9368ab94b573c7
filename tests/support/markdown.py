"""The code and the commands in pages of Markdown."""

from __future__ import annotations

import re
from pathlib import Path


def python_blocks(page: Path) -> list[str]:
    """Returns the blocks of Python in a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path, under: str = "") -> list[str]:
    """Returns the commands that begin with `tinkex` in a page, in order: lines of blocks, without
    their prompt and comment.

    Args:
        page: the page.
        under: the heading of the section to look in, the whole page if it is empty.
    """
    text = page.read_text(encoding="utf-8")
    if under:
        text = text.partition(f"\n{under}\n")[2].partition("\n## ")[0]
    indented = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    fenced = re.findall(r"^```(?:console|bash|sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join([*indented, *fenced]).replace("\\\n", " ").splitlines()
    found = (re.match(r"\s*(?:\$ )?(tinkex .*?)(?: {2,}#.*|\s+# .*)?$", line) for line in lines)
    return [match[1].strip() for match in found if match]
