"""Every kind of causal language model is served exactly, or refused with the reason; docs/models.md
says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.support.model_matrix import IN_USE, NOT_TRIED, Finding, Precision, find, page
from tests.support.model_zoo import (
    CannotBeMade,
    kinds,
    names_of_kinds,
    tiny_config,
    without_experts,
)

NOTHING: Mapping[str, Any] = {}
PAGE = Path(__file__).parents[3] / "docs" / "models.md"
LINES = PAGE.read_text("utf-8").splitlines()
KINDS = {line.split(" | ")[0].removeprefix("| ") for line in LINES if line.startswith("| ")}

OF_THIS_RELEASE = f"transformers {transformers.__version__} " in PAGE.read_text("utf-8")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a test of mixtures all of them, unless it will not run: which kinds are mixtures is
    known from their classes, which take seconds to import.
    """
    if "mixture" in metafunc.fixturenames:
        is_run = metafunc.config.option.markexpr != "not models"
        metafunc.parametrize("mixture", sorted(mixtures()) if is_run else ())


def mixtures() -> set[str]:
    """Returns the kinds of which a model can be made whose layers have no experts."""
    found = {kind for kind, config in kinds().items() if without_experts(config)}
    return found - NOT_TRIED.keys() - {"deepseek_v4"}  # which has experts in all


def found_of(kind: str, folder: Path, own: Mapping[str, Any] = NOTHING, **how: Any) -> Finding:
    """Skips a kind of which this release of transformers makes no tiny model, unless it is the
    release of the page.
    """
    try:
        return find(tiny_config(kinds()[kind], **own), folder, **how)
    except CannotBeMade as error:
        if OF_THIS_RELEASE:
            raise
        pytest.skip(f"transformers {transformers.__version__} makes no tiny one: {error}")


@pytest.mark.filterwarnings("ignore")  # of transformers and peft, for kinds of all ages
@pytest.mark.parametrize("kind", sorted(IN_USE.keys() & names_of_kinds()))
def test_a_kind_that_people_use_is_exact_as_the_page_says(
    kind: str, tmp_path: Path, precision: Precision
) -> None:
    # in less precision, tokens that are nearly as likely change places
    how: dict[str, Any] = {"precision": precision, "generates": precision.dtype == "float32"}
    check_rows(kind, found_of(kind, tmp_path, **how))


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(names_of_kinds() - NOT_TRIED.keys() - IN_USE.keys()))
def test_a_kind_is_exact_or_refused_as_the_page_says(kind: str, tmp_path: Path) -> None:
    check_rows(kind, found_of(kind, tmp_path))


def check_rows(kind: str, found: Finding) -> None:
    """Compares a kind's rows with those of the page, if that was made with this release."""
    rows = [line for line in page({kind: found}).splitlines() if f"| {kind} |" in line]
    assert rows
    if OF_THIS_RELEASE:
        assert [row for row in rows if row not in LINES] == []


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
def test_a_mixture_whose_layers_have_no_experts_is_exact_in_peft_too(
    mixture: str, tmp_path: Path
) -> None:
    found = found_of(mixture, tmp_path, without_experts(kinds()[mixture]))
    assert found.refusal or "train_attn" in found.trains


def test_the_names_of_kinds_are_those_of_their_classes() -> None:
    assert names_of_kinds() == kinds().keys()


def test_the_page_is_whole_and_says_what_the_matrix_would_write() -> None:
    text = PAGE.read_text("utf-8")
    prose = [
        line
        for line in page({}).splitlines()
        if not re.search(r"transformers \d|\d+ of \d+ are supported", line)
    ]
    assert [line for line in prose if line not in text.splitlines()] == []
    refused = text.partition("## Refused")[2].partition("## Not tested")[0].count("\n| ") - 1
    served = text.partition("## Refused")[0].partition("## Supported")[2].count("\n| ") - 1
    assert f"{served} of {served + refused} are supported" in text
    if OF_THIS_RELEASE:
        assert kinds().keys() <= KINDS


def test_each_kind_of_finding_has_its_table() -> None:
    text = page({"a": Finding("A", trains=("train_attn",)), "b": Finding("B", "it looks ahead")})
    assert "| a | A | yes | - | - |  |" in text
    assert "| b | B | it looks ahead |" in text
