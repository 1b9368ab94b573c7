"""The effects of the commands that manage things, on a server."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import tinkex.local
from tests.client.cli.conftest import Things, things_on
from tests.client.cli.in_process import data, run
from tinkex import RestClient, ServiceClient
from tinkex.cli.checkpoint.selection import Selection
from tinkex.local import Server

KEY = "tml-a-key-of-a-test-1234"


def paths_of(run_id: str) -> set[str]:
    return set(run("checkpoint", "list", "--run", run_id, "-q", "--all").stdout.split())


@pytest.fixture
def several(fake_server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A run with four states, whose losses differ, by name; the run is named "run"."""
    monkeypatch.setenv("TINKER_BASE_URL", fake_server.base_url)
    with ServiceClient(base_url=fake_server.base_url) as service:
        trainer = service.create_lora_training_client("tinkex/tiny", rank=4)
        losses = {"a": "0.9", "b": "0.3", "c": "0.5", "d": "bad"}
        saved = {
            name: trainer.save_state(name, user_metadata={"loss": loss}).result().path
            for name, loss in losses.items()
        }
    return {"run": trainer.model_id, **{name: str(path) for name, path in saved.items()}}


def test_paths_are_deleted_and_the_freed_bytes_are_told(things: Things) -> None:
    done = run("checkpoint", "delete", things.path, things.sampler_path, "--yes")
    assert done.stderr == "Deleted 2 checkpoints; 102 B freed.\n"
    assert paths_of(things.run) == set()


def test_nothing_is_deleted_when_one_path_is_wrong(things: Things) -> None:
    done = run("checkpoint", "delete", things.path, f"{things.path}x", "--yes")
    assert done.exit_code == 3
    assert paths_of(things.run) == {things.path, things.sampler_path}


def test_a_run_and_the_one_that_continues_it_name_each_other(several: dict[str, str]) -> None:
    with ServiceClient() as service:
        later = service.create_training_client_from_state(several["b"]).model_id
    new, old = (data("run", "info", run_id) for run_id in (later, several["run"]))
    assert (new["continues"], new["continued_by"]) == (several["b"], [])
    assert (old["continues"], old["continued_by"]) == (None, [later])
    shown = run("run", "info", several["run"]).stdout
    assert f"continued_by\t{later}\n" in shown


def test_a_dry_run_deletes_nothing(several: dict[str, str]) -> None:
    args = ("checkpoint", "delete", "--run", several["run"], "--dry-run")
    rows = data(*args)
    assert [row["deleted"] for row in rows] == [False] * 4
    size = sum(row["size_bytes"] for row in rows)
    assert run(*args).stderr == f"Would delete 4 checkpoints ({size} B).\n"
    assert len(paths_of(several["run"])) == 4


def test_the_newest_are_kept(several: dict[str, str]) -> None:
    run("checkpoint", "delete", "--run", several["run"], "--keep-last=1", "--yes")
    assert paths_of(several["run"]) == {several["d"]}


def test_the_best_and_those_without_a_number_are_kept(several: dict[str, str]) -> None:
    best = ("--keep-best=1", "--metric=loss")
    done = run("checkpoint", "delete", "--run", several["run"], *best, "--yes")
    assert "1 checkpoints have no number 'loss' in their user_metadata" in done.stderr
    assert paths_of(several["run"]) == {several["b"], several["d"]}


def test_the_highest_are_kept_where_that_is_best(several: dict[str, str]) -> None:
    best = ("--keep-best=2", "--metric=loss", "--highest")
    run("checkpoint", "delete", "--run", several["run"], *best, "--yes")
    assert paths_of(several["run"]) == {several["a"], several["c"], several["d"]}


def test_times_select(several: dict[str, str]) -> None:
    def selected(*conditions: str) -> int:
        args = ("checkpoint", "delete", "--run", several["run"], "--dry-run")
        return len(data(*args, *conditions))

    hour = timedelta(hours=1)
    soon, before = (datetime.now(UTC) + hour).isoformat(), (datetime.now(UTC) - hour).isoformat()
    assert selected("--older-than=0s") == 4
    assert selected("--older-than=1h") == 0
    assert (selected("--before", soon), selected("--before", before)) == (4, 0)
    assert (selected("--after", before), selected("--after", soon)) == (4, 0)
    assert selected("--type=sampler_weights") == 0


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["tinker://r/weights/a", "--run=r"],
        ["--keep-best=1"],
        ["--run=r", "--highest"],
        ["--older-than=soon"],
        ["--before=tomorrow"],
    ],
)
def test_wrong_conditions_are_refused_before_anything_is_sent(
    args: list[str], nowhere: str
) -> None:
    done = run("checkpoint", "delete", *args, "--base-url", nowhere)
    assert done.exit_code == 2


def _row(name: str, time: datetime | None) -> dict[str, Any]:
    return {"path": name, "run": "r", "kind": "weights", "time": time, "user_metadata": {}}


def test_a_checkpoint_of_unknown_time_is_never_taken_by_its_age() -> None:
    rows = [_row("old", datetime(2026, 1, 1)), _row("unknown", None)]
    now = datetime(2026, 2, 1, tzinfo=UTC)
    assert Selection(before=now).taken(rows) == rows[:1]
    assert Selection(keep_last=1).taken(rows) == rows[:1]


def test_a_failed_deletion_is_told_and_the_others_go_on(
    several: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RestClient.delete_checkpoint_from_tinker_path

    def delete(rest: RestClient, path: str) -> Any:
        if path == several["b"]:
            raise tinkex.PermissionDeniedError("it is held", status_code=403)
        return whole(rest, path)

    monkeypatch.setattr(RestClient, "delete_checkpoint_from_tinker_path", delete)
    done = run("checkpoint", "delete", "--run", several["run"], "--yes", "--json=path,error")
    rows = {row["path"]: row["error"] for row in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert rows == {several[n]: "it is held" if n == "b" else None for n in "abcd"}
    assert paths_of(several["run"]) == {several["b"]}


def test_a_checkpoint_is_published_and_made_private(things: Things) -> None:
    def is_public() -> bool:
        return data("checkpoint", "info", things.path)["public"]

    assert not is_public()
    run("checkpoint", "publish", things.path)
    assert is_public()
    run("checkpoint", "unpublish", things.path)
    assert not is_public()


def test_a_lifetime_is_set_and_removed(things: Things) -> None:
    run("checkpoint", "set-ttl", things.path, "--ttl=2h")
    expires = datetime.fromisoformat(data("checkpoint", "info", things.path)["expires"])
    assert timedelta(hours=1.9) < expires - datetime.now(UTC) <= timedelta(hours=2)
    run("checkpoint", "set-ttl", things.path, "--remove")
    assert data("checkpoint", "info", things.path)["expires"] is None
    assert run("checkpoint", "set-ttl", things.path).exit_code == 2
    assert run("checkpoint", "set-ttl", things.path, "--ttl=1", "--remove").exit_code == 2


def test_a_copy_has_a_path_of_its_own(things: Things, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("checkpoint", "copy", things.path).exit_code == 2  # no project
    monkeypatch.setenv("TINKER_PROJECT_ID", "project-7")
    copied = data("checkpoint", "copy", things.path)
    assert copied["project"] == "project-7"
    assert data("checkpoint", "info", copied["copy"])["lora_rank"] == 4


def test_a_download_is_whole_and_does_not_replace_a_folder(things: Things, tmp_path: Path) -> None:
    args = ("checkpoint", "download", things.sampler_path, "-o", str(tmp_path))
    done = data(*args)
    folder = Path(done["folder"])
    assert folder.parent == tmp_path
    assert sorted(done["files"]) == sorted(path.name for path in folder.iterdir())
    assert done["size_bytes"] == sum(path.stat().st_size for path in folder.iterdir()) > 0
    again = run(*args)
    assert again.exit_code == 2
    assert str(folder) in again.stderr
    assert data(*args, "--force")["folder"] == str(folder)


@pytest.fixture
def exporting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Things]:
    """Things on a server that gives out exported weights only, as the hosted service does."""
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    with tinkex.local.serve(
        ["tinkex/tiny"], engine="fake", profile="hosted", data_dir=tmp_path / "data", api_key=KEY
    ) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
        yield things_on(server.base_url)


def test_a_server_that_needs_an_export_is_given_one_and_keeps_none(
    exporting: Things, tmp_path: Path
) -> None:
    before = set(run("checkpoint", "list", "-q", "--all").stdout.split())
    args = ("checkpoint", "download", exporting.path, "-o", str(tmp_path / "files"))
    done = data(*args)
    name = exporting.path.partition("://")[2].replace(":", "_").replace("/", "_")
    assert done["folder"] == str(tmp_path / "files" / name)
    assert done["files"] == sorted(path.name for path in Path(done["folder"]).iterdir())
    assert done["files"]
    assert [path.name for path in (tmp_path / "files").iterdir()] == [name]
    assert set(run("checkpoint", "list", "-q", "--all").stdout.split()) == before
    assert data(*args, "--force")["files"] == done["files"]
    sampler = run("checkpoint", "download", exporting.sampler_path)
    assert (sampler.exit_code, "hint: tinkex checkpoint list --run" in sampler.stderr) == (2, True)


def test_a_session_ends_and_says_how(things: Things) -> None:
    with ServiceClient(base_url=things.base_url, display_name="left alone") as service:
        service.create_lora_training_client("tinkex/tiny", rank=2)
        listed = {row["name"]: row for row in data("session", "list", "--all")}
        session = listed["left alone"]
        assert session["status"] == "active"
        assert run("session", "close", session["id"]).exit_code == 2  # it would have to ask
        data("session", "close", session["id"], "--yes", "--detail", "its program was killed")
        listed = {row["name"]: row for row in data("session", "list", "--all")}
    assert listed["left alone"]["status"] == "client_finished"


def test_a_trace_is_fetched_whole(things: Things, tmp_path: Path) -> None:
    file = tmp_path / "new" / "trace.pftrace"
    done = data("session", "export-trace", things.session, "-o", str(file))
    assert file.stat().st_size == done["size_bytes"] > 0
    assert list(file.parent.iterdir()) == [file]
    url = data("session", "export-trace", things.session, "--url-only")
    assert (url["file"], url["url"].startswith(things.base_url)) == (None, True)


def test_columns_are_chosen(things: Things) -> None:
    done = run("run", "list", "--limit=1", "-c", "owner,checkpoint,id")
    assert done.stdout.split() == ["tml:user:local", things.path, things.run]
    assert run("run", "list", "-c", "nothing").exit_code == 2


def test_usage_is_written_as_csv(things: Things, tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    period = (today.isoformat(), (today + timedelta(days=1)).isoformat())
    rows = data("billing", "usage", *period)
    assert {"checkpoint"} <= {row["type"] for row in rows}
    file, sessions = tmp_path / "usage.csv", tmp_path / "sessions.csv"
    run("billing", "usage", *period, "--csv", str(file), "--sessions-csv", str(sessions))
    with file.open(newline="") as read:
        assert len(list(csv.DictReader(read))) == len(rows)
    assert things.session in sessions.read_text()
    done = run("billing", "checkpoint-storage", "--csv", "-")
    assert done.stdout.startswith("project,user,email,checkpoints,size_bytes,usd_per_month\n")


def test_a_hub_out_of_reach_is_no_mistake_of_tinkex(
    things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", unreachable)
    done = run("checkpoint", "push-hf", things.path)
    assert done.exit_code == 5
    assert "the Hugging Face hub cannot be reached: Name or service not known" in done.stderr


# Keys, settings and versions.


@pytest.fixture
def keyed_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that accepts one key. The home folder is empty."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    with tinkex.local.serve(
        ["tinkex/tiny"], engine="fake", data_dir=tmp_path / "data", api_key=KEY
    ) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.base_url)
        yield server


def test_a_key_is_stored_used_and_removed(keyed_server: Server, tmp_path: Path) -> None:
    assert run("run", "list").exit_code == 4
    wrong = run("auth", "login", "--key-stdin", given="tml-wrong-key-00000\n")
    assert wrong.exit_code == 4
    assert not (tmp_path / "home").exists()
    stored = data("auth", "login", "--key-stdin", given=f"{KEY}\n")
    assert (stored["key"], stored["stored_in"]) == (
        "tml-…1234",
        str(tmp_path / "home" / ".tinker" / "credentials.json"),
    )
    assert run("run", "list").exit_code == 0
    status = data("auth", "status")
    assert (status["accepted"], status["key"]) == (True, "tml-…1234")
    assert status["source"].startswith(f"key {stored['key_id']} of ")
    assert data("auth", "logout")["key_id"] == stored["key_id"]
    assert run("run", "list").exit_code == 4
    assert run("auth", "status").exit_code == 4
    assert data("auth", "logout")["key_id"] is None


def test_a_key_of_the_environment_is_named_as_such(
    keyed_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    assert data("auth", "status")["source"] == "TINKER_API_KEY"
    assert "TINKER_API_KEY is still set" in run("auth", "logout").stderr


def test_no_command_shows_a_key(keyed_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    for args in (["auth", "status"], ["config", "show"], ["auth", "whoami"], ["run", "info", "x"]):
        for form in ([], ["--json"], ["--debug"]):
            assert KEY not in run(*args, *form).output


def test_settings_are_shown_with_their_sources_also_without_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINKEX_TIMEOUT", "7")
    rows = {row["name"]: row for row in data("config", "show")}
    assert rows["timeout"] == {"name": "timeout", "value": "7.0", "source": "TINKEX_TIMEOUT"}
    assert rows["connect_timeout"]["source"] == "default"
    assert rows["api_key"] == {"name": "api_key", "value": None, "source": "missing"}


def test_the_version_names_the_server_if_it_answers(things: Things, nowhere: str) -> None:
    shown = data("version")
    assert shown["client"] == tinkex.__version__
    assert (shown["server"], shown["wire"]) == ("tinkex", "protobuf")
    away = data("version", "--base-url", nowhere)
    assert (away["client"], away["base_url"], away["server"]) == (tinkex.__version__, nowhere, None)


def test_help_explains_topics_and_commands() -> None:
    assert "130  Ctrl-C ended it.\n" in run("help", "exit-codes").stdout
    assert run("help", "run", "list").stdout.startswith("Usage: tinkex run list")
    assert run("help", "-q").stdout.split() == ["exit-codes", "environment", "formatting"]
