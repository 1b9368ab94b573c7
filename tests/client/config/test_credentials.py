"""The file of stored keys, in the format that other Tinker clients read and write."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tinkex import Config, ConfigError, credentials
from tinkex.credentials import Credentials

OFFICIAL = {
    "version": 1,
    "default": "12",
    "keys": {
        "12": {
            "type": "generated",
            "key": "tml-made",
            "name": "made",
            "details": {"org_details": {"name": "o"}},
        },
        "7": {"type": "manual", "key": "tml-pasted", "name": "pasted", "note": "mine"},
    },
    "theirs": True,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(home: Path, content: Any) -> Path:
    path = home / ".tinker" / "credentials.json"
    path.parent.mkdir()
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_default_key_is_used_where_no_other_source_has_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(home, OFFICIAL)
    config = Config()
    assert config.api_key == "tml-made"
    assert {s.name: s.source for s in config.describe()}["api_key"] == f"key 12 of {path}"
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", "pass tinker")
    assert Config().api_key is None
    monkeypatch.setenv("TINKER_API_KEY", "tml-env")
    assert Config().api_key == "tml-env"


def test_changing_one_key_keeps_the_others(home: Path) -> None:
    path = write(home, OFFICIAL)
    changed = credentials.load().with_key("99", "tml-new", "new", note="n").without_key("7")
    credentials.save(changed)
    new = {"type": "manual", "key": "tml-new", "name": "new", "note": "n"}
    assert json.loads(path.read_text()) == {
        **OFFICIAL,
        "default": "99",
        "keys": {"12": OFFICIAL["keys"]["12"], "99": new},
    }  # type: ignore[index]
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_for_its_owner_alone(home: Path) -> None:
    path = credentials.save(Credentials().with_key("1", "tml-x", "x"))
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (
        0o600,
        0o700,
    )
    assert credentials.load().default_key == "tml-x"


def test_without_the_default_key_there_is_none(home: Path) -> None:
    write(home, OFFICIAL)
    left = credentials.load().without_key("12")
    assert (left.default, left.default_key, list(left.keys)) == (None, None, ["7"])


@pytest.mark.parametrize(
    "content",
    ["{", "[]", {"version": 2, "keys": {}}, {"version": 1, "keys": {"a": {"name": "tml-secret"}}}],
)
def test_a_file_of_another_format_is_named_and_not_shown(home: Path, content: Any) -> None:
    path = write(home, content)
    with pytest.raises(ConfigError) as caught:
        Config(base_url="http://127.0.0.1:1")
    assert str(path) in str(caught.value)
    assert "tml-secret" not in str(caught.value)
    assert Config(base_url="http://127.0.0.1:1", api_key="tml-x").api_key == "tml-x"


def test_no_key_is_in_a_repr() -> None:
    assert "tml-x" not in repr(Credentials().with_key("1", "tml-x", "x"))
