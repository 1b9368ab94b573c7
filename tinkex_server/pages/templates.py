"""`render`: fills the templates of the pages. All values are escaped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from tinkex_server import formatting
from tinkex_server.checkpoint_path import CheckpointPath
from tinkex_server.pages import chart
from tinkex_server.pages.static_files import static_url

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> str:
    return _environment().get_template(template).render({**_constants(), **values})


def _download(path: CheckpointPath) -> str:
    return "/".join(("/download", *_parts(path)))


def _delete(path: CheckpointPath) -> str:
    run_id, kind, name = _parts(path)
    return f"/runs/{run_id}/checkpoints/{kind}/{name}/delete"


def _parts(path: CheckpointPath) -> list[str]:
    return [quote(part, safe=":") for part in (path.run_id, path.kind, path.name)]


def _sample(path: CheckpointPath) -> str:
    return f"/playground?{urlencode({'weights': str(path)})}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@cache
def _constants() -> Mapping[str, object]:
    return {
        "version": version("tinkex"),
        "static": static_url(),
        "width": chart.WIDTH,
        "height": chart.HEIGHT,
    }


@cache
def _environment() -> Environment:
    # imported here: most servers in tests show no page
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tinkex_server", "pages/html"),
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
        iso=_iso,
        download=_download,
        delete=_delete,
        sample=_sample,
    )
    return environment
