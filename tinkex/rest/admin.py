"""`AsyncAdminClient`: the audit log, billing and storage of an organization."""

from __future__ import annotations

from datetime import UTC, date, datetime

from tinkex_api.api.admin import get_audit_log, get_billing_usage, get_checkpoint_storage_usage
from tinkex_api.types import UNSET, write_time

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
    """A client for the audit log, the billing and the storage of an organization. It begins no
    session. Self-hosted servers have few of these calls.

    Each call may raise `UnsupportedByServer`, `AuthenticationError`, `PermissionDeniedError` and
    `APIConnectionError`.

    Args:
        config: all settings.
        base_url: the server's URL; by default `TINKER_BASE_URL`, else the hosted service. Takes
            precedence over `config`.
        api_key: the API key; by default `TINKER_API_KEY`. Takes precedence over `config`.

    Raises:
        ConfigError: a setting is missing or wrong.

    Example:
        from tinkex import AsyncAdminClient

        async with AsyncAdminClient() as admin:
            usage = await admin.get_billing_usage("2026-01-01T00:00:00Z", "2026-01-08T00:00:00Z")
    """

    async def get_audit_log(
        self, event_type: AuditEventType = "all", day: date | None = None
    ) -> AuditLogResponse:
        """Returns the audit log of one day, by default today.

        Example:
            async with AsyncAdminClient() as admin:
                log = await admin.get_audit_log()
            for entry in log.entries:
                print(entry.timestamp, entry.event)
        """
        return await self._send(
            get_audit_log.request(
                event_type=event_type, day=UNSET if day is None else day.isoformat()
            )
        )

    async def get_billing_usage(
        self, starting_on: datetime | str, ending_before: datetime | str
    ) -> BillingUsageResponse:
        """Returns the billed usage for each hour.

        Args:
            starting_on: the first hour, a full one: a datetime, in UTC if it has no time zone, or a
                string in ISO 8601.
            ending_before: the hour after the last, given likewise; at most 14 days later.

        Raises:
            InvalidInputError: a string is not a time in ISO 8601.

        Example:
            async with AsyncAdminClient() as admin:
                usage = await admin.get_billing_usage("2026-01-01", "2026-01-02")
            print(len(usage.data), "hours and kinds of use")
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
        """Returns the storage that all checkpoints, or those of one project, use now.

        Example:
            async with AsyncAdminClient() as admin:
                usage = await admin.get_current_checkpoint_storage_usage()
            print(usage)
        """
        return await self._send(
            get_checkpoint_storage_usage.request(
                project_id=UNSET if project_id is None else project_id
            )
        )


def _hour(given: datetime | str, name: str) -> str:
    """Returns a time in UTC, in the contract's form."""
    try:
        time = datetime.fromisoformat(given) if isinstance(given, str) else given
    except ValueError as error:
        raise InvalidInputError(
            f"{name} {given!r} is not a time in ISO 8601",
            advice="For example 2026-01-01T00:00:00Z.",
        ) from error
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    return write_time(zoned.astimezone(UTC))
