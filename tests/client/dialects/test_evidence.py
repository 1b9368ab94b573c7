"""The evidence for each field of the dialects: a measured field names its run, and only measured
fields are trusted with a step.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from attrs import fields

from tests.support.first_contact import first_contact
from tinkex.dialects.detect import recognise
from tinkex.dialects.dialect import Dialect, Evidence, SamplingRules
from tinkex.dialects.table import DIALECTS
from tinkex_server.profiles import PROFILES

SEEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "docs" / "servers_seen.json").read_text()
)["servers"]
MARKS = [
    (dialect, name, found)
    for dialect in DIALECTS.values()
    for name, found in dialect.evidence.items()
]
DAY = re.compile(r"20\d\d-\d\d-\d\d|[A-Z][a-z]+ 20\d\d")


@pytest.mark.parametrize(
    ("dialect", "name", "found"),
    MARKS,
    ids=[f"{dialect.name}-{name}" for dialect, name, _ in MARKS],
)
def test_evidence_names_a_field_a_release_and_a_day(
    dialect: Dialect, name: str, found: Evidence
) -> None:
    field, _, part = name.partition(".")
    assert field in {known.name for known in fields(Dialect)}
    if field == "sampling":
        assert part in {known.name for known in fields(SamplingRules)}, (
            "a whole of several claims is never measured at once"
        )
    elif field in ("missing", "loss_notes"):
        assert part in getattr(dialect, field)
    else:
        assert not part
    assert found.release
    assert DAY.fullmatch(found.day)
    assert (found.how == "measured") == bool(found.saw)


@pytest.mark.parametrize("name", DIALECTS)
def test_facts_without_evidence_were_read_except_for_the_embedded_server(name: str) -> None:
    source = DIALECTS[name].source
    assert (source.how == "measured") == (name == "tinkex")
    assert source.release
    assert name == "tinkex" or DAY.fullmatch(source.day)


@pytest.mark.parametrize("name", SEEN)
def test_evidence_from_real_servers_is_from_the_recorded_run(name: str) -> None:
    record = SEEN[name]
    marks = [found for found in DIALECTS[name].evidence.values() if found.day == record["date"]]
    assert marks, (
        "nothing that the run has seen is in the table's evidence: see tinkex/dialects/measured.py"
    )
    assert all(record["release"] in found.release for found in marks)


@pytest.mark.parametrize("name", SEEN)
def test_the_table_says_what_the_real_server_did(name: str) -> None:
    dialect, effects = DIALECTS[name], SEEN[name].get("effects", {})
    for effect, words, holds in (
        ("a repeated optim_step", "applied again", dialect.seq_id_repeats == "ignores"),
        ("a repeated optim_step", "applied once", dialect.seq_id_repeats in ("repeats", "refuses")),
        ("resume without", "the optimizer's state comes along", dialect.loads_keep_optimizer),
        ("resume without", "cold, as asked", not dialect.loads_keep_optimizer),
        ("a second save", "loads other weights", dialect.saves_once),
        ("a second save", "loads as saved", not dialect.saves_once),
        ("chunks of a batch", "train otherwise", not dialect.splits_batches),
        ("base model's logprobs", "equal to", dialect.sampling.base_models),
    ):
        if effects.get(effect, "").startswith(words):
            assert holds, f"{effect}: {effects[effect]}"


@pytest.mark.rule(11)
@pytest.mark.parametrize("name", DIALECTS)
def test_repeats_are_trusted_only_where_their_effect_was_measured(name: str) -> None:
    for dialect in (DIALECTS[name], recognise(first_contact(PROFILES[name]))):
        trusted = dialect.as_trusted()
        how = trusted.known("seq_id_repeats").how
        assert (
            trusted.seq_id_repeats == "unknown"
            or how == "measured"
            or (dialect.name, how) == ("tinkex", "said")
        )


def test_a_part_of_a_field_has_the_evidence_of_the_whole_by_default() -> None:
    dialect = DIALECTS["open-rl-old"]
    assert dialect.known("sampling.stops").how == "measured"
    assert dialect.known("sampling.seeds").how == "read"
    assert dialect.known("sampling").how == "read"
    assert (
        Dialect(evidence={"losses": Evidence("measured", "1", "2026-01-01", "x")})
        .known("losses.ppo")
        .how
        == "measured"
    )
