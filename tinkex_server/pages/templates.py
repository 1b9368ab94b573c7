"""`render`: fills the templates of the pages. All values are escaped."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import quote

from tinkex_server import formatting
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.pages import curve

if TYPE_CHECKING:
    from jinja2 import Environment

_CONSTANTS = {"version": version("tinkex"), "width": curve.WIDTH, "height": curve.HEIGHT}


def render(template: str, **values: object) -> str:
    return _environment().get_template(template).render({**_CONSTANTS, **values})


def _download(path: CheckpointPath) -> str:
    return "/".join(
        ("/download", *(quote(part, safe=":") for part in (path.run_id, path.kind, path.name)))
    )


@cache
def _environment() -> Environment:
    # imported here: most servers in tests show no page
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tinkex_server", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=formatting.size,
        span=formatting.span,
        moment=formatting.moment,
        number=formatting.number,
        download=_download,
    )
    return environment
