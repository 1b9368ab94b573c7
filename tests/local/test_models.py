"""Every kind of causal language model is served exactly, or refused with the reason; docs/models.md says which."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from tests.model_matrix import NOT_TRIED, Finding, find, page
from tests.model_zoo import kinds, tiny_config

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ROWS = {line.split(" | ")[0].removeprefix("| "): line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")}


@pytest.mark.filterwarnings("ignore")  # of transformers and peft, for kinds of all ages
@pytest.mark.parametrize("kind", sorted(kinds().keys() - NOT_TRIED.keys()))
def test_a_kind_is_exact_or_refused_as_the_page_says(kind: str, tmp_path: Path) -> None:
    found = find(tiny_config(kinds()[kind]), tmp_path)
    [row] = [line for line in page({kind: found}).splitlines() if line.startswith(f"| {kind} |")]
    if f"transformers {transformers.__version__} " in PAGE.read_text("utf-8"):
        assert ROWS[kind] == row


def test_a_finding_of_each_sort_has_its_table() -> None:
    text = page({"a": Finding("A", trains=("train_attn",)), "b": Finding("B", "it looks ahead")})
    assert "| a | A | yes | - | - |" in text
    assert "| b | B | it looks ahead |" in text
