"""`tinkex auth` with the system's keyring, by a backend that keeps keys in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tinkex.local
from tests.client.cli.in_process import data, run
from tinkex import Config, ConfigError, credentials

keyring = pytest.importorskip("keyring")
pytest.importorskip("keyring.backend")

KEY = "tml-a-key-of-a-test-1234"
OTHER = "tml-another-key-of-a-test-5678"


class InMemory(keyring.backend.KeyringBackend):
    """A keyring that is gone with the test, and that may be locked."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.keys[service, username] = password

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.keys.get((service, username))

    def delete_password(self, service: str, username: str) -> None:
        self._check()
        del self.keys[service, username]

    def _check(self) -> None:
        if self.is_locked:
            raise keyring.errors.KeyringLocked("the keyring is locked")


@pytest.fixture
def ring() -> Iterator[InMemory]:
    before = keyring.get_keyring()
    ring = InMemory()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder, and a server that accepts two keys."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    with tinkex.local.serve(["tinkex/tiny"], engine="fake", api_key=[KEY, OTHER]) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
        yield home


def login(key: str) -> Any:
    return data("auth", "login", "--key-stdin", given=f"{key}\n")


def test_the_keyring_keeps_the_key_and_no_file_has_it(ring: InMemory, home: Path) -> None:
    stored = login(KEY)
    assert stored["stored_in"] == "the system's keyring"
    assert ring.keys == {("tinkex", stored["key_id"]): KEY}
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["credentials.json"]
    assert KEY not in files[0].read_text()
    status = data("auth", "status")
    assert (status["accepted"], status["key"]) == (True, "tml-…1234")
    assert status["source"] == f"key {stored['key_id']} of the system's keyring"
    assert run("run", "list").exit_code == 0
    removed = data("auth", "logout")
    assert (removed["key_id"], removed["stored_in"]) == (
        stored["key_id"],
        "the system's keyring",
    )
    assert ring.keys == {}
    assert run("auth", "status").exit_code == 4


def test_another_login_replaces_the_key(ring: InMemory, home: Path) -> None:
    login(KEY)
    stored = login(OTHER)
    assert ring.keys == {("tinkex", stored["key_id"]): OTHER}
    assert data("auth", "status")["key"] == "tml-…5678"


def test_a_login_moves_the_key_from_the_file(ring: InMemory, home: Path) -> None:
    ring.is_locked = True
    stored = login(KEY)  # a keyring that takes nothing is as none
    assert stored["stored_in"] == str(home / ".tinker" / "credentials.json")
    assert Path(stored["stored_in"]).stat().st_mode & 0o777 == 0o600
    ring.is_locked = False
    login(KEY)
    assert KEY not in Path(stored["stored_in"]).read_text()
    assert credentials.load().keys == {}


def test_a_locked_or_emptied_keyring_is_named(ring: InMemory, home: Path) -> None:
    login(KEY)
    ring.is_locked = True
    with pytest.raises(ConfigError, match=r"the system's keyring.*: the keyring is locked"):
        Config()
    assert Config(api_key=OTHER).api_key == OTHER
    ring.is_locked = False
    ring.keys.clear()
    done = run("run", "list")
    assert done.exit_code != 0
    assert "it has no such key" in done.stderr
    assert "tinkex auth login" in done.stderr
    assert data("auth", "logout")["key_id"]


def test_a_key_of_the_environment_needs_no_keyring(
    ring: InMemory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(KEY)
    ring.is_locked = True
    monkeypatch.setenv("TINKER_API_KEY", OTHER)
    assert data("auth", "status")["source"] == "TINKER_API_KEY"
