"""The routes that export the trace of a session, for Perfetto or Chrome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from tinkex_api.models import SessionTraceExportResponse

from tinkex_server.access.signed_urls import LIFETIME, signed_url
from tinkex_server.routes.support.chrome_trace import chrome_trace
from tinkex_server.routes.support.endpoint import Call, get
from tinkex_server.state import CommonState
from tinkex_server.wire.json import encode
from tinkex_server.wire.scope import PREFIX

_TRACE = "/sessions/{session_id}/trace"
_MOST = 50_000
"""The number of requests in a trace, the newest ones."""


async def export(state: CommonState, call: Call[None]) -> Mapping[str, Any]:
    """Returns a URL of the trace. It is ready at once, since the trace is written when the client
    downloads it, and covers the session up to then.
    """
    row = call.access.session(call.path["session_id"])
    path, expires = PREFIX + _TRACE.format(session_id=row.session_id), int(time.time()) + LIFETIME
    url = signed_url(state.signer, call.origin, path, expires)
    return SessionTraceExportResponse("ready", url).to_dict()


async def trace(state: CommonState, call: Call[None]) -> Response:
    row = call.access.session(call.path["session_id"])
    requests = state.store.futures.of_session(row.session_id, _MOST)
    body = await asyncio.to_thread(lambda: encode(chrome_trace(row, requests, time.time())))
    headers = {"Content-Disposition": f'attachment; filename="{row.session_id}.json"'}
    return Response(body, media_type="application/json", headers=headers)


ROUTES = [
    get("/sessions/{session_id}/trace_export", export),
    get(_TRACE, trace),
]
