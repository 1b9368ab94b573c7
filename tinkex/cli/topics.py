"""The topics of `tinkex help`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tinkex.cli.exit_codes import MEANINGS

FORMATTING = """\
stdout has the data; status lines, warnings and hints go to stderr.

On a terminal, data is a table that is cut to the width, or a line for each field; --no-truncate
shows all of it, and times are those of this machine's zone. In a pipe or a file, each row is a line
with tabs between the values, nothing is cut, there is no header, and times are in UTC.

--json writes an array or an object with all fields, --json=id,model those that are named; the help
of a command lists its fields. A failure is then {"error": {"code", "message", "hint",
"request_id"}}, on stdout, too. `tinkex --format json` before any command does the same.

-q writes the ids only, one a line: tinkex run list -q --all.
"""

_VARIABLES: Mapping[str, str] = {
    "TINKER_BASE_URL": "Server to use; `local` starts one in the process.",
    "TINKER_API_KEY": "API key. It takes precedence over the one that `tinkex auth login` stores.",
    "TINKER_CREDENTIAL_CMD": "Command that prints the API key.",
    "TINKER_PROJECT_ID": "Project of new sessions and of copies.",
    "TINKER_LOG": "Log on stderr: debug, info, warning or error.",
    "TINKEX_PROFILE": "Profile of the settings file, ~/.config/tinkex/config.toml.",
    "TINKEX_TIMEOUT": "Seconds for one answer of the server.",
    "TINKEX_DEBUG": "1 shows the traceback of an error, as --debug does.",
    "TINKEX_FORCE_TTY": "Writes as to a terminal of so many columns, also to a pipe.",
    "NO_COLOR": "Any value switches colors off.",
    "CLICOLOR_FORCE": "1 switches colors on, also in a pipe. NO_COLOR takes precedence.",
}


def exit_codes() -> str:
    """Returns the table of exit codes."""
    return "".join(f"{code:>3}  {meaning}\n" for code, meaning in MEANINGS.items())


def environment() -> str:
    """Returns the variables that a user of the command line meets."""
    width = max(map(len, _VARIABLES))
    lines = "".join(f"{name:{width}}  {text}\n" for name, text in _VARIABLES.items())
    return f"{lines}\n`tinkex config show` lists all settings with their values and sources.\n"


def formatting() -> str:
    return FORMATTING


TOPICS: Mapping[str, Callable[[], str]] = {
    "exit-codes": exit_codes,
    "environment": environment,
    "formatting": formatting,
}
