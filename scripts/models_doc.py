"""Writes docs/models.md: serves a tiny model of every kind, and says what was found. `make
docs`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.model_matrix import find_all, page  # noqa: E402 - found through the line above


def main() -> None:
    (ROOT / "docs" / "models.md").write_text(page(find_all()), encoding="utf-8")


if __name__ == "__main__":
    main()
