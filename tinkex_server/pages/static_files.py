"""The scripts and styles of the pages, which browsers keep for as long as they are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
}


@cache
def _files() -> Mapping[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES
    }


@cache
def static_url() -> str:
    """Returns the URL of the folder of static files, which is another one when a file changes."""
    digest = hashlib.blake2b(b"".join(_files().values()), digest_size=8).hexdigest()
    return f"/static/{digest}"


async def send_static(request: Request) -> Response:
    """Answers with a static file."""
    content = _files().get(request.path_params["name"])
    if content is None:
        return PlainTextResponse("there is no such file", 404)
    suffix = Path(request.path_params["name"]).suffix
    return Response(content, media_type=_TYPES[suffix], headers=_HEADERS)
