"""The command `tinkex serve`, which runs the embedded server."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinkex.cli.process import INTERRUPTED, collect_rarely, interrupt, os_error, user_data_folder

if TYPE_CHECKING:
    from tinkex.local import Server
    from tinkex_server.engine.factory import EngineName
    from tinkex_server.engine.ray.settings import RaySettings
    from tinkex_server.engine.vllm.settings import VllmSettings

_OWN_CLUSTER = "local"


@click.command("serve", help="Run the embedded server until Ctrl-C.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8765,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 chooses a free one.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=["tinkex/tiny"],
    show_default=True,
    help=(
        "Folder or hub id of a transformers model, or NAME=FOLDER to serve it under another name; "
        "repeatable."
    ),
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the database and checkpoints.  [default: in the user's data folder]",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    help=(
        "Key that clients must send; repeatable: each key sees only its own data. By default any "
        "key is accepted.  [env: TINKEX_SERVER_API_KEYS, comma-separated]"
    ),
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    help="Host name, besides localhost, that is accepted if no --api-key is set; repeatable.",
)
@click.option(
    "--engine",
    default="torch",
    show_default=True,
    type=click.Choice(["torch", "fake"]),
    help="Engine that trains and samples; fake answers immediately, for tests of clients.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "mps"]),
    help="Device of the torch engine.  [default: the best available]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    help="Data type of the base models.  [default: depends on the device]",
)
@click.option(
    "--sampler",
    default="torch",
    show_default=True,
    type=click.Choice(["torch", "vllm"]),
    help="Engine that samples: the one that trains, or vLLM.",
)
@click.option(
    "--vllm-python",
    metavar="PATH",
    help="With --sampler vllm: Python interpreter of the environment with vLLM, to start it.",
)
@click.option(
    "--vllm-args",
    default="",
    metavar="ARGUMENTS",
    help='With --vllm-python: further arguments of vLLM, such as "--max-lora-rank 128".',
)
@click.option(
    "--vllm-url",
    "vllm_urls",
    multiple=True,
    metavar="URL",
    help="With --sampler vllm: address of a vLLM that is running; repeatable, for replicas.",
)
@click.option(
    "--vllm-adapters",
    type=click.Path(path_type=Path, file_okay=False),
    help=(
        "With --vllm-url: folder for adapters on a disk that vLLM has at the same path.  "
        "[default: a temporary folder]"
    ),
)
@click.option(
    "--vllm-max-difference",
    type=float,
    help=(
        "Largest difference of logprobs between vLLM and torch to start with, in nats.  "
        "[default: 0.18]"
    ),
)
@click.option(
    "--ray",
    "ray_address",
    is_flag=False,
    flag_value=_OWN_CLUSTER,
    metavar="[ADDRESS]",
    help=(
        "Train and sample on a Ray cluster: the one at this address, or one on this machine that "
        "ends with the server."
    ),
)
@click.option(
    "--train-gpus",
    type=click.FloatRange(0),
    help="With --ray: GPUs of each trainer and of each sampler.  [default: 0]",
)
@click.option(
    "--train-cpus",
    type=click.FloatRange(0, min_open=True),
    help="With --ray: CPU cores of each trainer.  [default: 1]",
)
@click.option(
    "--train-replicas",
    type=click.IntRange(1),
    help="With --ray: trainers of each base model, which share each batch.  [default: 1]",
)
@click.option(
    "--samplers",
    type=click.IntRange(1),
    help="With --ray: samplers of each base model, torch or vLLM.  [default: 1]",
)
@click.option(
    "--profile",
    default="tinkex",
    show_default=True,
    help="Tinker server to imitate on the wire, for tests of clients.",
)
@click.option(
    "--gc",
    "collect",
    is_flag=True,
    help=(
        "Remove expired data from the data folder and, after confirmation, weights that belong to "
        "no checkpoint; then exit."
    ),
)
@click.option("--yes", is_flag=True, help="With --gc: remove weights without confirmation.")
@click.option("--verbose", is_flag=True, help="Log every request.")
def command(
    host: str,
    port: int,
    models: tuple[str, ...],
    data_dir: Path | None,
    api_keys: tuple[str, ...],
    allow_hosts: tuple[str, ...],
    engine: EngineName,
    device: str | None,
    dtype: str | None,
    sampler: str,
    vllm_python: str | None,
    vllm_args: str,
    vllm_urls: tuple[str, ...],
    vllm_adapters: Path | None,
    vllm_max_difference: float | None,
    ray_address: str | None,
    train_gpus: float | None,
    train_cpus: float | None,
    train_replicas: int | None,
    samplers: int | None,
    profile: str,
    collect: bool,
    yes: bool,
    verbose: bool,
) -> None:
    """Runs the embedded server until it is interrupted."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    data_dir = data_dir or user_data_folder()
    if collect:
        _collect(data_dir, ask=not yes)
        return
    signal.signal(signal.SIGTERM, interrupt)
    began = time.monotonic()
    given = {
        "python": vllm_python,
        "args": shlex.split(vllm_args),
        "urls": vllm_urls,
        "adapters": vllm_adapters,
        "max_difference": vllm_max_difference,
    }
    try:
        api_keys = api_keys or _keys_of_environment()
        with _start(
            list(models),
            host=host,
            port=port,
            data_dir=data_dir,
            api_key=api_keys,
            engine=engine,
            device=device,
            dtype=dtype,
            vllm=_vllm_settings(sampler, given),
            profile=profile,
            access_log=verbose,
            allow_hosts=allow_hosts,
            ray=_ray_settings(
                ray_address,
                train_gpus=train_gpus,
                train_cpus=train_cpus,
                train_replicas=train_replicas,
                samplers=samplers,
            ),
        ) as server:
            collect_rarely()
            _announce(server, profile, with_key=bool(api_keys))
            _await_engine(server, began)
            server.wait()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _vllm_settings(sampler: str, given: Mapping[str, Any]) -> VllmSettings | None:
    """Returns where vLLM is, None if torch samples. Raises `click.ClickException` for options that
    do not fit each other.
    """
    given = {name: value for name, value in given.items() if value not in (None, [], ())}
    if sampler != "vllm":
        if given:
            raise click.UsageError("the options --vllm-… need --sampler vllm")
        return None
    from tinkex_server.engine.interface import InvalidRequest
    from tinkex_server.engine.vllm.settings import VllmSettings

    # so that its start, which takes a while, can be followed
    logging.getLogger("tinkex.local.vllm").setLevel(logging.INFO)
    try:
        return VllmSettings(**given)
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from error


def _start(models: list[str], *, host: str, port: int, **settings: Any) -> Server:
    """Starts the server. Raises `click.ClickException` with one line for an error of the user."""
    try:
        from tinkex.local import serve
        from tinkex_server.access.api_keys import ApiKeyRequired, InvalidApiKeys
        from tinkex_server.engine.interface import InvalidRequest
        from tinkex_server.profiles import UnknownProfile
        from tinkex_server.store import StoreError
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    try:
        return serve(models, host=host, port=port, **settings)
    except OSError as error:
        raise click.ClickException(os_error(error, host, port)) from error
    except (
        ImportError,
        InvalidRequest,
        StoreError,
        UnknownProfile,
        InvalidApiKeys,
        ApiKeyRequired,
    ) as error:
        raise click.ClickException(_one_line(error)) from error


def _ray_settings(address: str | None, **numbers: float | None) -> RaySettings | None:
    """Returns what was chosen with --ray. Raises `click.UsageError` for an option that needs it."""
    given = {name: value for name, value in numbers.items() if value is not None}
    if address is None:
        if given:
            raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} needs --ray")
        return None
    from tinkex_server.engine.ray.settings import RaySettings

    chosen: Any = {"address": None if address == _OWN_CLUSTER else address, **given}
    return RaySettings(**chosen)


def _collect(data_dir: Path, *, ask: bool) -> None:
    from tinkex.local import gc
    from tinkex_server.store import StoreError

    if not (data_dir / "tinkex.db").is_file():
        raise click.ClickException(f"{data_dir} is not the data folder of a server")
    try:
        collected = gc(data_dir, remove=partial(_may_remove, data_dir, ask=ask))
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{data_dir}\n  had  {collected.before}\n  has  {collected.after}")
    click.echo(
        f"  with {collected.audit_entries:,} entries of the audit log, "
        f"{collected.usage_entries:,} of usage"
    )
    if collected.set_aside:
        click.echo(
            f"  kept {len(collected.set_aside)} folders of {data_dir / 'set_aside'}: `--gc --yes` "
            "removes them"
        )


def _may_remove(data_dir: Path, aside: Sequence[str], *, ask: bool) -> bool:
    """Lists the weights that belong to no checkpoint and returns whether the user agrees to remove
    them.

    Without a terminal to ask on, the answer is no.
    """
    from tinkex_server.data_dir.sizes import folder_size
    from tinkex_server.formatting import size

    click.echo("These folders of weights belong to no checkpoint of the database:")
    for name in aside:
        click.echo(f"  {size(folder_size(data_dir / name)):>9}  {name}")
    if not ask:
        return True
    try:
        return click.confirm("Remove them permanently?")
    except click.Abort:
        click.echo()
        return False


def _await_engine(server: Server, began: float) -> None:
    """Waits until the engine is ready. Raises `click.ClickException` if it fails to start."""
    if not server.ready.done():
        click.echo("\nThe engine is starting; requests wait until it is ready.")
    while not server.ready.done():
        wait(
            [server.ready], timeout=0.5
        )  # a short timeout, so that signals are handled on every platform
    if error := server.ready.exception():
        raise click.ClickException(_one_line(error)) from error
    click.echo(f"\nReady after {time.monotonic() - began:.1f} s: {server.ready.result()}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _announce(server: Server, profile: str, *, with_key: bool) -> None:
    # Imported here, so that the process of the engine starts first.
    from rich.console import Console

    from tinkex_server.data_dir.sizes import sizes_of

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]tinkex serves {server.base_url}[/bold]  (Ctrl-C stops it)")
    for model in server.models:
        console.print(
            f"  model    {model.name}: {model.arch}, {model.max_context_length} tokens of context",
            markup=False,
        )
    console.print(f"  data     {server.data_dir}: {sizes_of(server.data_dir)}", markup=False)
    console.print(f"  profile  {profile}", markup=False)
    console.print("  status   at this address in a browser; the API reference is at /docs")
    console.print("\nTo point a client at it:")
    console.print(f"  export TINKER_BASE_URL={server.base_url}", markup=False)
    console.print(
        f"  export TINKER_API_KEY={'<the key>' if with_key else 'tml-local'}", markup=False
    )


def _keys_of_environment() -> tuple[str, ...]:
    keys = os.environ.get("TINKEX_SERVER_API_KEYS", "").split(",")
    return tuple(key.strip() for key in keys if key.strip())
