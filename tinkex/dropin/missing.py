"""The error messages for names of the official SDK that have no counterpart."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from tinkex.dropin.table import MODULES, RELEASE

_TRANSPORT = (
    "It belongs to the HTTP client inside the official SDK. Requests of tinkex are sent by "
    "tinkex.transport, which is set by tinkex.Config; use the public clients."
)
_TELEMETRY = "tinkex.telemetry.attach and tinkex.events tell a program what its clients do."
_SERVER_SIDE = (
    "The contract is in tinkex_api (requests and answers) and tinkex_proto (protobuf), which a "
    "server can use directly."
)
_COMMAND = "The commands are those of `tinkex`, which `tinkex --help` lists."
_MODULES_OF_THE_COMMAND = (
    "auth_api",
    "client",
    "commands",
    "context",
    "exceptions",
    "lazy_group",
    "login",
    "output",
)

ADVICE: Mapping[str, str] = {
    "tinker._base_client": _TRANSPORT,
    "tinker._client": _TRANSPORT,
    "tinker._compat": "Values have model_dump, model_dump_json, model_copy and model_validate.",
    "tinker._constants": "Timeouts and retries are settings: tinkex.Config.",
    "tinker._files": _TRANSPORT,
    "tinker._models": "Values have model_dump, model_dump_json, model_copy and model_validate.",
    "tinker._qs": _TRANSPORT,
    "tinker._resource": _TRANSPORT,
    "tinker._response": "Calls return typed values; errors have .response, .status_code and .body.",
    "tinker._streaming": "tinkex.SamplingClient.sample_stream yields tokens as they are drawn.",
    "tinker._types": _TRANSPORT,
    "tinker._utils": _TRANSPORT,
    "tinker.APIResponse": "Calls return typed values; errors have .response.",
    "tinker.AsyncAPIResponse": "Calls return typed values; errors have .response.",
    "tinker.RequestOptions": (
        "Headers, query parameters and timeouts are settings of a client, not of a call: "
        "ServiceClient(default_headers_overrides=…, timeout=…) and tinkex.Config."
    ),
    **{f"tinker.cli.{module}": _COMMAND for module in _MODULES_OF_THE_COMMAND},
    "tinker.lib._auth_token_provider": "Keys come from tinkex.Config.api_key or credential_cmd.",
    "tinker.lib._jwt_auth": "Keys come from tinkex.Config.api_key or credential_cmd.",
    "tinker.lib._pydantic_conv": _SERVER_SIDE,
    "tinker.lib.async_tinker_provider": _TRANSPORT,
    "tinker.lib.backcompat_concurrent_future": (
        "tinker.lib.public_interfaces.AwaitableConcurrentFuture wraps a future of the standard "
        "library."
    ),
    "tinker.lib.chunked_fwdbwd_helpers": (
        "A training client of tinkex splits large batches and joins their results itself."
    ),
    "tinker.lib.client_connection_pool_type": _TRANSPORT,
    "tinker.lib.console_urls": "ServiceClient.get_console_url gives the address of a console.",
    "tinker.lib.credentials": "tinkex.credentials reads and writes the same file of stored keys.",
    "tinker.lib.internal_client_holder": _TRANSPORT,
    "tinker.lib.public_interfaces.backcompat_client_future": (
        "The futures of clients are in tinker.lib.public_interfaces."
    ),
    "tinker.lib.public_interfaces.rest_client_common": _TRANSPORT,
    "tinker.lib.retry_handler.RetryHandler": (
        "A sampling client retries by itself, as its retry_config says."
    ),
    "tinker.lib.queue_state_logger": (
        "SamplingClient.on_queue_state_change can be set to a function; the log of tinkex says "
        "what a call waits for."
    ),
    "tinker.lib.sdk_method": _TELEMETRY,
    "tinker.lib.session_futures_poller": _TRANSPORT,
    "tinker.lib.sync_only": "Blocking calls work in any thread but the one of the clients' loop.",
    "tinker.lib.telemetry": _TELEMETRY,
    "tinker.lib.telemetry_provider": _TELEMETRY,
    "tinker.proto.request_conv": _SERVER_SIDE,
    "tinker.proto.response_conv": _SERVER_SIDE,
    "tinker.resources": _TRANSPORT,
    "tinker.types.billing_usage_request": (
        "Pass the fields of the request to AdminClient.get_billing_usage."
    ),
    "tinker.types.current_checkpoint_storage_usage_request": (
        "Pass the field of the request to AdminClient.get_current_checkpoint_storage_usage."
    ),
    "tinker.types.generic_event": _TELEMETRY,
    "tinker.types.request_failed_response": ("A failed request raises tinker.RequestFailedError."),
    "tinker.types.session_end_event": _TELEMETRY,
    "tinker.types.session_start_event": _TELEMETRY,
    "tinker.types.telemetry_batch": _TELEMETRY,
    "tinker.types.try_again_response": _TRANSPORT,
    "tinker.types.unhandled_exception_event": _TELEMETRY,
    "tinker.types.GetBillingUsageRequest": "Pass its fields to AdminClient.get_billing_usage.",
    "tinker.types.GetCurrentCheckpointStorageUsageRequest": (
        "Pass its field to AdminClient.get_current_checkpoint_storage_usage."
    ),
    "tinker.types.RequestFailedResponse": "A failed request raises tinker.RequestFailedError.",
    "tinker.types.SaveWeightsExternalResponseInternal": "Use SaveWeightsExternalResponse.",
    "tinker.types.SaveWeightsForSamplerResponseInternal": "Use SaveWeightsForSamplerResponse.",
    "tinker.types.SessionEndEvent": _TELEMETRY,
    "tinker.types.SessionStartEvent": _TELEMETRY,
    "tinker.types.TelemetryBatch": _TELEMETRY,
    "tinker.types.UnhandledExceptionEvent": _TELEMETRY,
}
"""The advice for names and modules of the official SDK that have no counterpart.

The advice for a module holds for all names in it.
"""


def explanation(name: str) -> str:
    """Returns the message of the error for a dotted name without a counterpart."""
    said = f"{name} has no counterpart in tinkex, which stands in for the official SDK here"
    if advice := _advice(name):
        return f"{said}. {advice}"
    if near := _near(name):
        return f"{said}. Did you mean {near}?"
    return f"{said}, and is no public name of its release {RELEASE}."


def _advice(name: str) -> str | None:
    parts = name.split(".")
    wholes = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((ADVICE[whole] for whole in wholes if whole in ADVICE), None)


def _near(name: str) -> str | None:
    module, _, last = name.rpartition(".")
    known = [
        *MODULES.get(module, ()),
        *(one.rpartition(".")[2] for one in MODULES if one.rpartition(".")[0] == module),
    ]
    found = difflib.get_close_matches(last, known, n=1, cutoff=0.7)
    return f"{module}.{found[0]}" if found else None
