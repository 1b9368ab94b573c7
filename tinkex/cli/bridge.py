"""The command `tinkex bridge`, which runs the bridge to another server."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinkex.cli.process import INTERRUPTED, collect_rarely, interrupt, os_error, user_data_folder
from tinkex.dialects.table import DIALECTS
from tinkex.errors import TinkexError

if TYPE_CHECKING:
    from tinkex.bridge.routing import Routing
    from tinkex.bridge.server import Bridge


@click.command(
    "bridge", help="Let programs of the official SDK use any server, until Ctrl-C ends it."
)
@click.option("--upstream", required=True, help="URL of the server to use.")
@click.option(
    "--dialect", type=click.Choice(sorted(DIALECTS)), help="Its dialect.  [default: detected]"
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="PATTERN=URL",
    help="Server for the models whose names match, such as 'Qwen/*=URL'; the first match counts.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8766,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 chooses a free one.",
)
@click.option(
    "--api-key",
    envvar="TINKEX_BRIDGE_API_KEY",
    show_envvar=True,
    help="Key to send to the servers in place of the callers' own keys.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the record of requests.  [default: in the user's data folder]",
)
@click.option("--verbose", is_flag=True, help="Log every request.")
def command(
    upstream: str,
    dialect: str | None,
    routes: tuple[str, ...],
    host: str,
    port: int,
    api_key: str | None,
    data_dir: Path | None,
    verbose: bool,
) -> None:
    """Runs the bridge until it is interrupted."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    signal.signal(signal.SIGTERM, interrupt)
    try:
        routing = _routing(upstream, dialect, routes)
        with _start(routing, host, port, api_key, data_dir, access_log=verbose) as bridge:
            collect_rarely()
            _announce(bridge, routing, replaces_keys=api_key is not None)
            _warn_of_unreachable(routing, api_key)
            bridge.wait()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _routing(upstream: str, dialect: str | None, routes: tuple[str, ...]) -> Routing:
    from tinkex.bridge.routing import Route, Routing, Target

    try:
        return Routing(Target(upstream, dialect), [Route.parse(route) for route in routes])
    except TinkexError as error:
        raise click.ClickException(" ".join(str(error).split())) from error


def _start(
    routing: Routing,
    host: str,
    port: int,
    api_key: str | None,
    data_dir: Path | None,
    *,
    access_log: bool,
) -> Bridge:
    """Starts the bridge. Raises `click.ClickException` with one line for an error of the user."""
    try:
        from tinkex.bridge.server import serve_bridge
        from tinkex_server.access.api_keys import ApiKeyRequired
        from tinkex_server.store import StoreError
    except ImportError as error:
        raise click.ClickException(
            f"the bridge needs the packages of `pip install 'tinkex[local]'`: {error}"
        ) from error
    try:
        return serve_bridge(
            routing,
            host=host,
            port=port,
            data_dir=data_dir or user_data_folder() / "bridge",
            api_key=api_key,
            access_log=access_log,
        )
    except ApiKeyRequired as error:
        raise click.ClickException(
            f"{host} can be reached from other machines, and with --api-key all of them could use "
            "the servers by that key: leave it out, so that callers send their own, or listen on "
            "127.0.0.1"
        ) from error
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(os_error(error, host, port)) from error


def _announce(bridge: Bridge, routing: Routing, *, replaces_keys: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]tinkex bridges {bridge.base_url}[/bold]  (Ctrl-C stops it)")
    for route in routing.routes:
        console.print(f"  {route.pattern}  to {route.target.url}", markup=False)
    console.print(f"  models  to {routing.default.url}", markup=False)
    keys = "the one of --api-key, whoever calls" if replaces_keys else "the caller's own"
    console.print(f"  keys    {keys}", markup=False)
    console.print(f"  data    {bridge.data_dir}", markup=False)
    console.print("\nTo point the official SDK at it:")
    console.print(f"  export TINKER_BASE_URL={bridge.base_url}", markup=False)
    key = "tml-any" if replaces_keys else "<the key of the server behind it, or tml-any>"
    console.print(f"  export TINKER_API_KEY={key}", markup=False)


def _warn_of_unreachable(routing: Routing, key: str | None) -> None:
    """Says which servers do not answer. The bridge runs all the same: they may come later."""
    from tinkex.bridge.reachability import find_unreachable

    for url, reason in find_unreachable(routing, key).items():
        click.echo(
            f"\n{url} does not answer yet: {' '.join(reason.split())}\nCalls that need it are "
            "refused, and say so, until it answers.",
            err=True,
        )
