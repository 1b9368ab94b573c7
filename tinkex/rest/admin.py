"""`AsyncAdminClient`: what an organization did, used and pays for."""

from __future__ import annotations

from datetime import UTC, date, datetime

from tinkex_api.api.admin import get_audit_log, get_billing_usage, get_checkpoint_storage_usage
from tinkex_api.models import write_time
from tinkex_api.types import UNSET

from tinkex.errors import InvalidInputError
from tinkex.errors.hints import hinted
from tinkex.rest.connection import AsyncConnection
from tinkex.types import (
    AuditEventType,
    AuditLogResponse,
    BillingUsageResponse,
    CurrentCheckpointStorageUsageResponse,
)


@hinted
class AsyncAdminClient(AsyncConnection):
    """Audit log, billing and storage of an organization. Begins no session. Servers of one's own
    have few of these calls.

    Each call may raise `UnsupportedByServer`, `AuthenticationError`, `PermissionDeniedError` and
    `APIConnectionError`.

    Args:
        config: all settings.
        base_url: where the server is; by default `TINKER_BASE_URL`, else the hosted service. Goes
            before the one of `config`.
        api_key: by default `TINKER_API_KEY`. Goes before the one of `config`.

    Raises:
        ConfigError: a setting is missing or wrong.
    """

    async def get_audit_log(
        self, event_type: AuditEventType = "all", day: date | None = None
    ) -> AuditLogResponse:
        """What was done on a day, by default today."""
        return await self._send(
            get_audit_log.request(
                event_type=event_type, day=UNSET if day is None else day.isoformat()
            )
        )

    async def get_billing_usage(
        self, starting_on: datetime | str, ending_before: datetime | str
    ) -> BillingUsageResponse:
        """What was used, hour by hour.

        Args:
            starting_on: a full hour, as a datetime, which is UTC if it has no zone, or in ISO 8601.
            ending_before: the same, not included; 14 days later at most.

        Raises:
            InvalidInputError: a text is no time.
        """
        return await self._send(
            get_billing_usage.request(
                starting_on=_hour(starting_on, "starting_on"),
                ending_before=_hour(ending_before, "ending_before"),
            )
        )

    async def get_current_checkpoint_storage_usage(
        self, project_id: str | None = None
    ) -> CurrentCheckpointStorageUsageResponse:
        """What the checkpoints take at present, maybe those of one project."""
        return await self._send(
            get_checkpoint_storage_usage.request(
                project_id=UNSET if project_id is None else project_id
            )
        )


def _hour(given: datetime | str, name: str) -> str:
    """In UTC, as the contract has it."""
    try:
        time = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError as error:
        raise InvalidInputError(
            f"{name} {given!r} is not a time in ISO 8601",
            advice="For example 2026-01-01T00:00:00Z.",
        ) from error
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    return write_time(zoned.astimezone(UTC))
