"""Settings: where each comes from, in which order, what is refused and how, and what must not be
seen.
"""

from __future__ import annotations

import copy
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from tinkex import (
    ChunkLimits,
    Config,
    ConfigError,
    HttpLimits,
    PollSettings,
    RecoveryPolicy,
    RetrySettings,
)
from tinkex.config import HOSTED_BASE_URL
from tinkex.config.setting import single_settings
from tinkex.errors.hints import _SECRETS as SECRET_PARAMETERS

HERE = "http://127.0.0.1:1"
SECRETS = {
    "api_key": "tml-secret",
    "cf_access_client_id": "cf-secret-id",
    "cf_access_client_secret": "cf-secret",
    "proxy": "http://me:pw-secret@127.0.0.1:2",
    "proxy_headers": {"Proxy-Authorization": "pa-secret"},
    "default_headers": {"Authorization": "dh-secret", "X-Team": "one"},
    "default_query": {"token": "dq-secret", "team": "one"},
}


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the file of profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def write(text: str) -> Path:
        path = tmp_path / "tinkex" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def sources(config: Config) -> dict[str, str]:
    return {setting.name: setting.source for setting in config.describe()}


def values(config: Config) -> dict[str, str]:
    return {setting.name: setting.value for setting in config.describe()}


# ---- where settings come from ----


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("TINKER_BASE_URL", f"{HERE}/", "base_url", HERE),
        ("TINKER_API_KEY", "tml-x", "api_key", "tml-x"),
        ("TINKER_CREDENTIAL_CMD", "pass tinker", "credential_cmd", "pass tinker"),
        ("TINKER_PROJECT_ID", "p1", "project_id", "p1"),
        ("TINKER_TAGS", "a, b,", "tags", ("a", "b")),
        ("TINKER_TELEMETRY", "No", "telemetry", False),
        ("TINKER_LOG", "DEBUG", "log_level", "debug"),
        (
            "TINKER_FEATURE_GATES",
            "async_sampling,-cancels",
            "feature_gates",
            ("async_sampling", "-cancels"),
        ),
        ("TINKEX_USER_METADATA", "run=7, who=me", "user_metadata", {"run": "7", "who": "me"}),
        ("TINKEX_USER_METADATA", '{"run": "a,b"}', "user_metadata", {"run": "a,b"}),
        ("TINKEX_TIMEOUT", "5.5", "timeout", 5.5),
        ("TINKEX_CONNECT_TIMEOUT", "2", "connect_timeout", 2.0),
        ("TINKEX_MAX_RETRIES", "3", "max_retries", 3),
        ("TINKEX_PROGRESS_TIMEOUT", "60", "progress_timeout", 60.0),
        ("TINKEX_HEARTBEAT_INTERVAL", "3", "heartbeat_interval", 3.0),
        ("TINKEX_DUMP_HEADERS", "on", "dump_headers", True),
        ("TINKEX_DEFAULT_HEADERS", "X-A=1", "default_headers", {"X-A": "1"}),
        ("TINKEX_DEFAULT_QUERY", "a=1", "default_query", {"a": "1"}),
        ("TINKEX_PROXY", "http://127.0.0.1:3", "proxy", "http://127.0.0.1:3"),
        ("TINKEX_RETRY_MAX_ATTEMPTS", "2", "retry", RetrySettings(max_attempts=2)),
        ("TINKEX_POLL_MAX_WAIT", "9", "poll", PollSettings(max_wait=9)),
        ("TINKEX_RECOVERY_KEEP", "5", "recovery", RecoveryPolicy(keep=5)),
        ("TINKEX_RECOVERY_SAVE_EVERY_STEPS", "5", "recovery", RecoveryPolicy(save_every_steps=5)),
        ("TINKEX_HTTP_LIMITS_MAX_CONNECTIONS", "8", "http_limits", HttpLimits(max_connections=8)),
    ],
)
def test_a_variable_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, name: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    config = Config() if name == "base_url" else Config(base_url=HERE)
    assert getattr(config, name) == value
    assert variable in sources(config).values()


def test_the_order_of_the_sources(
    profiles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = profiles(
        """
        profile = "work"
        [profiles.work]
        base_url = "http://127.0.0.1:1"
        timeout = 1
        tags = ["of the file"]
        telemetry = false
        [profiles.work.retry]
        max_attempts = 7
        max_seconds = 8.5
        """
    )
    monkeypatch.setenv("TINKEX_TIMEOUT", "2")
    monkeypatch.setenv("TINKER_TAGS", "of the environment")
    monkeypatch.setenv("TINKEX_RETRY_MAX_SECONDS", "9")
    config = Config(tags=["of the call"])
    assert (config.base_url, config.timeout, config.tags, config.telemetry) == (
        HERE,
        2.0,
        ("of the call",),
        False,
    )
    assert (config.retry.max_attempts, config.retry.max_seconds) == (7, 9.0)
    found = sources(config)
    assert found["base_url"] == f"profile work of {path}"
    assert found["timeout"] == "TINKEX_TIMEOUT"
    assert found["tags"] == "argument"
    assert found["retry.max_attempts"] == f"profile work of {path}"
    assert found["connect_timeout"] == "default"


def test_a_profile_is_chosen_by_argument_then_by_variable_then_by_the_file(
    profiles: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = "".join(f'[profiles.{name}]\nbase_url = "http://{name}"\n' for name in ("a", "b", "c"))
    profiles(f'profile = "c"\n{tables}')
    assert Config().base_url == "http://c"
    monkeypatch.setenv("TINKEX_PROFILE", "b")
    assert Config().base_url == "http://b"
    assert Config(profile="a").base_url == "http://a"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_TIMEOUT", " ")
    monkeypatch.setenv("TINKER_BASE_URL", "")
    config = Config(api_key="tml-x")
    assert (config.timeout, config.base_url) == (60.0, HOSTED_BASE_URL)


def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(base_url=HERE)
    monkeypatch.setenv("TINKEX_TIMEOUT", "2")
    assert (config.timeout, sources(config)["timeout"]) == (60.0, "default")


def test_the_names_that_other_clients_have_for_retries_and_waits() -> None:
    config = Config(
        base_url=HERE,
        max_retries=0,
        progress_timeout=30,
        retry=RetrySettings(max_attempts=5, max_seconds=7),
    )
    assert config.retry == RetrySettings(max_attempts=1, max_seconds=7, max_wait=30)
    assert config.poll == PollSettings(max_wait=30)


def test_the_table_in_the_docs_has_every_setting_with_its_variable() -> None:
    text = (Path(__file__).parents[3] / "docs" / "settings.md").read_text()
    table = dict(re.findall(r"^\| `([\w.]+)` \| `(\w+)` \|", text, re.MULTILINE))
    assert table == {setting.name: setting.variable for setting in single_settings(Config)}


def test_the_variables_that_other_clients_know_keep_their_names() -> None:
    variables = {setting.name: setting.variable for setting in single_settings(Config)}
    assert {name: v for name, v in variables.items() if not v.startswith("TINKEX_")} == {
        "base_url": "TINKER_BASE_URL",
        "api_key": "TINKER_API_KEY",
        "credential_cmd": "TINKER_CREDENTIAL_CMD",
        "project_id": "TINKER_PROJECT_ID",
        "tags": "TINKER_TAGS",
        "telemetry": "TINKER_TELEMETRY",
        "log_level": "TINKER_LOG",
        "feature_gates": "TINKER_FEATURE_GATES",
        "cf_access_client_id": "CLOUDFLARE_ACCESS_CLIENT_ID",
        "cf_access_client_secret": "CLOUDFLARE_ACCESS_CLIENT_SECRET",
    }
    assert variables["retry.max_wait"] == "TINKEX_RETRY_MAX_WAIT"


def test_settings_that_are_hidden_are_hidden_in_tracebacks_too() -> None:
    secret = {setting.name for setting in single_settings(Config) if setting.hide}
    assert {"api_key", "credential_cmd", "proxy", "default_headers"} <= secret <= SECRET_PARAMETERS


# ---- which key ----


@pytest.mark.parametrize(
    ("variables", "file", "arguments", "expected"),
    [
        ({"TINKER_API_KEY": "e"}, 'api_key = "f"', {"api_key": "a"}, ("a", None)),
        ({"TINKER_API_KEY": "e"}, 'api_key = "f"', {}, ("e", None)),
        ({"TINKER_API_KEY": "e", "TINKER_CREDENTIAL_CMD": "c"}, "", {}, ("e", "c")),
        ({"TINKER_CREDENTIAL_CMD": "c"}, 'api_key = "f"', {}, (None, "c")),
        ({"TINKER_API_KEY": "e"}, 'credential_cmd = "c"', {}, ("e", "c")),
        ({"TINKER_API_KEY": "e"}, "", {"credential_cmd": "c"}, (None, "c")),
        ({}, 'api_key = "f"', {}, ("f", None)),
        ({}, "", {}, (None, None)),
    ],
)
def test_which_key_is_used(
    profiles: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    file: str,
    arguments: dict[str, str],
    expected: tuple[str | None, str | None],
) -> None:
    profiles(f'profile = "it"\n[profiles.it]\n{file}')
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = Config(base_url=HERE, **arguments)  # type: ignore[arg-type]
    assert (config.api_key, config.credential_cmd) == expected


def test_the_hosted_service_wants_a_key_and_takes_a_command_for_one() -> None:
    with pytest.raises(ConfigError, match="TINKER_API_KEY"):
        Config()
    assert Config(credential_cmd="pass tinker").is_hosted


# ---- what is refused ----


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("TINKEX_TIMEOUT", "soon", "TINKEX_TIMEOUT is 'soon', not a number"),
        ("TINKEX_TIMEOUT", "-1", "TINKEX_TIMEOUT must be greater than 0, not -1.0"),
        ("TINKEX_MAX_RETRIES", "1.5", "TINKEX_MAX_RETRIES is '1.5', not a whole number"),
        (
            "TINKEX_MAX_RETRIES",
            "-1",
            "TINKEX_MAX_RETRIES must be at least 0, not -1",
        ),
        (
            "TINKER_TELEMETRY",
            "perhaps",
            "TINKER_TELEMETRY is 'perhaps', not one of 1, true, yes, on, 0, false, no, off",
        ),
        ("TINKER_LOG", "loud", "TINKER_LOG is 'loud', not one of debug, info, warning, error"),
        (
            "TINKER_FEATURE_GATES",
            "bulk",
            "TINKER_FEATURE_GATES: 'bulk' is not a feature gate. The gates are "
            "asks_to_save_optimizer, bare_archive_ids, bearer, bulk_results",
        ),
        ("TINKEX_DIALECT", "skyrll", "TINKEX_DIALECT is 'skyrll', not one of "),
        (
            "TINKEX_USER_METADATA",
            "run",
            "TINKEX_USER_METADATA is 'run', not comma-separated name=value pairs",
        ),
        ("TINKEX_USER_METADATA", '{"a": 1}', "TINKEX_USER_METADATA is "),
        ("TINKEX_PROXY", "socks5://127.0.0.1", "TINKEX_PROXY 'socks5://127.0.0.1' is not an http"),
        (
            "TINKEX_RETRY_MAX_ATTEMPTS",
            "0",
            "TINKEX_RETRY_MAX_ATTEMPTS: RetrySettings.max_attempts must be greater than 0, not 0",
        ),
        (
            "TINKEX_RECOVERY_KEEP",
            "0",
            "TINKEX_RECOVERY_KEEP: RecoveryPolicy.keep must be at least 1, not 0",
        ),
        (
            "TINKEX_RECOVERY_WAIT_MINUTES",
            "0",
            "TINKEX_RECOVERY_WAIT_MINUTES: RecoveryPolicy.wait_minutes must be greater than 0, not "
            "0.0",
        ),
        ("TINKEX_PROFILE", "home", "there is no profile 'home'"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, words: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError) as caught:
        Config(base_url=HERE)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timeout": "60"}, "Config.timeout must be a number, not '60'"),
        ({"max_retries": 1.5}, "Config.max_retries must be a whole number, not 1.5"),
        ({"max_retries": True}, "Config.max_retries must be a number, not True"),
        ({"timeout": float("nan")}, "Config.timeout must be greater than 0, not nan"),
        ({"log_level": "loud"}, "Config.log_level is 'loud', not one of"),
        ({"feature_gates": ["bulk"]}, "Config.feature_gates: 'bulk' is not a feature gate"),
        ({"dialect": "skyrll"}, "dialect must be one of "),
        (
            {"user_metadata": {"a": 1}},
            "Config.user_metadata must map strings to strings; the entry 'a' does not",
        ),
        ({"base_url": "http://me:pw@here"}, "'http://(hidden)@here' contains a password"),
        ({"cf_access_client_id": "x"}, "must be set together"),
        ({"proxy_headers": {"a": "b"}}, "proxy_headers are set, but no proxy is"),
        (
            {"api_key": "tml-\n"},
            "Config.api_key contains characters that are not allowed in a header",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_its_value_and_what_is_allowed(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{"base_url": HERE, **settings})
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[profiles.it]\ntimeot = 1", "timeot in profile it of "),
        ("[profiles.it.retry]\nattempts = 1", "retry.attempts in profile it of "),
        ("[profiles.it]\ntimeout = 'x'", "timeout in profile it of "),
        ("[profiles.it", "cannot be read"),
        ("[profiles.other]", "there is no profile 'it'"),
    ],
)
def test_mistakes_in_the_file_are_named(
    profiles: Callable[[str], Path], text: str, words: str
) -> None:
    path = profiles(text)
    with pytest.raises(ConfigError) as caught:
        Config(base_url=HERE, profile="it")
    assert words in caught.value.message
    assert str(path) in caught.value.message


# ---- what must not be seen ----


def test_no_repr_or_description_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = Config(base_url=HERE, **SECRETS)  # type: ignore[arg-type]
    for text in (
        repr(config),
        str(config.describe()),
        repr(config.describe()),
        repr(config.sources),
        caplog.text,
    ):
        assert "secret" not in text.replace("cf_access_client_secret", "")
    assert "'X-Team': 'one'" in values(config)["default_headers"]
    assert values(config)["proxy"] == "http://(hidden)@127.0.0.1:2"


@pytest.mark.parametrize(
    "variable",
    [
        "TINKER_API_KEY",
        "CLOUDFLARE_ACCESS_CLIENT_SECRET",
        "TINKEX_PROXY_HEADERS",
        "TINKEX_DEFAULT_HEADERS",
    ],
)
def test_a_secret_that_is_wrong_is_not_in_the_error(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "\u00e4 secret")
    monkeypatch.setenv("CLOUDFLARE_ACCESS_CLIENT_ID", "x")
    with pytest.raises(ConfigError) as caught:
        Config(base_url=HERE)
    assert variable in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_pickle_holds_no_secret_and_its_copy_takes_the_key_of_its_own_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(
        base_url=HERE,
        credential_cmd="echo cmd-secret",
        chunk_limits=ChunkLimits(max_items=3),
        **SECRETS,
    )  # type: ignore[arg-type]
    raw = pickle.dumps(config)
    assert b"secret" not in raw.replace(b"cf_access_client_secret", b"")
    monkeypatch.setenv("TINKER_API_KEY", "tml-other")
    monkeypatch.setenv("CLOUDFLARE_ACCESS_CLIENT_ID", "id")
    monkeypatch.setenv("CLOUDFLARE_ACCESS_CLIENT_SECRET", "other")
    restored = pickle.loads(raw)
    assert (restored.base_url, restored.api_key, restored.chunk_limits) == (
        HERE,
        "tml-other",
        ChunkLimits(max_items=3),
    )
    assert (restored.default_headers, restored.default_query) == (
        {"X-Team": "one"},
        {"team": "one"},
    )
    assert (restored.proxy, restored.cf_access_client_secret) == (None, "other")


def test_a_changed_copy_leaves_what_the_original_says_of_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINKEX_RETRY_MAX_ATTEMPTS", "7")
    config = Config(api_key="tml-x")
    before = {s.name: (s.value, s.source) for s in config.describe()}
    changed = attrs.evolve(config, max_retries=4, progress_timeout=30.0)
    assert {s.name: (s.value, s.source) for s in config.describe()} == before
    found = {s.name: (s.value, s.source) for s in changed.describe()}
    assert found["retry.max_attempts"] == ("5", "argument")
    assert found["retry.max_wait"] == ("30.0", "argument")
    assert before["retry.max_attempts"] == ("7", "TINKEX_RETRY_MAX_ATTEMPTS")
    assert found["timeout"] == before["timeout"]


def test_a_copy_within_the_process_is_the_same() -> None:
    config = Config(base_url=HERE, api_key="tml-x")
    assert copy.deepcopy(config) is copy.copy(config) is config
