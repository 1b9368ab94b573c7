"""`AsyncRestClient`: lists and manages sessions, training runs and checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from attrs import evolve
from tinkex_api.api.auth import get_api_key_info, revoke_api_key
from tinkex_api.api.checkpoints import (
    delete_checkpoint,
    get_external_weights_urls,
    list_user_checkpoints,
    publish_checkpoint,
    search_checkpoints,
    set_checkpoint_ttl,
    unpublish_checkpoint,
)
from tinkex_api.api.models import get_weights_info
from tinkex_api.api.sampling import get_sampler
from tinkex_api.api.server import get_server_capabilities
from tinkex_api.api.sessions import (
    assign_session_project,
    export_session_trace,
    finish_session,
    get_session,
    list_sessions,
    search_sessions,
)
from tinkex_api.api.training_runs import (
    get_training_run,
    list_checkpoints,
    list_steps,
    list_training_runs,
)
from tinkex_api.api.weights import (
    copy_weights,
    external_weights_upload_finish,
    external_weights_upload_start,
)
from tinkex_api.models import (
    AssignSessionProjectRequest,
    CopyWeightsRequest,
    ExternalWeightsUploadFinishRequest,
    ExternalWeightsUploadStartRequest,
    FinishReason,
    FinishSessionRequest,
    SetCheckpointTtlRequest,
    StepsResponse,
    WeightsInfoRequest,
)
from tinkex_api.types import UNSET, Request

from tinkex.downloads.download import ProgressCallback, download, folder_name
from tinkex.downloads.sources import archive_url
from tinkex.errors import ConflictError, InvalidInputError, RequestFailedError
from tinkex.errors.hints import hinted
from tinkex.rest.adapter_upload import AdapterFolder, send_files
from tinkex.rest.connection import AsyncConnection
from tinkex.rest.external_weights import (
    ExternalWeightsUploadFinishResult,
    ExternalWeightsUploadStartResult,
    read_start_response,
)
from tinkex.rest.hub import HubUpload, add_model_card
from tinkex.rest.identity import identity
from tinkex.rest.paging import PAGE_SIZE, check_page, listing, search_results
from tinkex.session.discovery import discover
from tinkex.session.lifecycle import Outcome
from tinkex.threads import in_thread
from tinkex.transport.upload_settings import UploadSettings
from tinkex.types import (
    AccessScope,
    ApiKeyInfoResponse,
    Checkpoint,
    CheckpointArchiveUrlResponse,
    CheckpointSearchCursor,
    CheckpointSearchRequest,
    CheckpointSearchResponse,
    CheckpointsListResponse,
    Cursor,
    ExternalWeightsUrlsResponse,
    GetSamplerResponse,
    GetServerCapabilitiesResponse,
    GetSessionResponse,
    ListSessionsResponse,
    LoraConfig,
    ParsedCheckpointTinkerPath,
    SessionSearchCursor,
    SessionSearchRequest,
    SessionSearchResponse,
    SessionSummary,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoResponse,
    WhoamiResponse,
)
from tinkex.types.checkpoint_path import CheckpointAddress
from tinkex.types.number_checks import check_optional_int
from tinkex.waiting.wait import RequestState
from tinkex.wire.json import encode_checkpoint_search, encode_session_search

T = TypeVar("T")

_TRACE_INTERVAL = 5.0  # seconds


@hinted
class AsyncRestClient(AsyncConnection):
    """A client that lists and manages what a server holds: models, sessions, training runs and
    checkpoints. It begins no session.

    Created by `AsyncServiceClient.create_rest_client`, or directly. Each call may raise
    `UnsupportedByServer` where the server lacks the call, `AuthenticationError` or
    `PermissionDeniedError` where the API key does not allow it, `NotFoundError` where there is no
    such thing, and `APIConnectionError` where the server cannot be reached.

    A checkpoint is named by its path, `tinker://<training run>/<kind>/<name>`, in the calls
    `…_from_tinker_path` and `…_by_tinker_path`; in the others by its training run and
    `Checkpoint.checkpoint_id`. `access_scope` is "owned" for your own things, "accessible" for all
    that you may read.

    Args:
        config: all settings.
        base_url: the server's URL; by default `TINKER_BASE_URL`, else the hosted service. Takes
            precedence over `config`.
        api_key: the API key; by default `TINKER_API_KEY`. Takes precedence over `config`.

    Raises:
        ConfigError: a setting is missing or wrong.

    Example:
        async for checkpoint in rest.iter_user_checkpoints():
            print(checkpoint.tinker_path, checkpoint.time)
        await rest.set_checkpoint_ttl_from_tinker_path(path, 7 * 24 * 3600)  # seconds
        await rest.download_checkpoint(sampler_path, output_dir=folder)
    """

    async def get_server_capabilities(self) -> GetServerCapabilitiesResponse:
        """Returns the base models that the server can train and sample.

        Example:
            capabilities = await rest.get_server_capabilities()
            print([model.model_name for model in capabilities.supported_models])
        """
        capabilities = await self._send(get_server_capabilities.request())
        for model in capabilities.supported_models:
            # the name of the field on one server
            model.model_name = model.model_name or model.additional_properties.get("model_id")
        return capabilities

    async def whoami(self) -> WhoamiResponse:
        """Returns the user whom the credential names. Raises `InvalidInputError` where neither the
        credential nor the token it is exchanged for is a JWT.

        Example:
            try:
                me = await rest.whoami()
                print(me.email)
            except InvalidInputError:
                print("this key is no JWT")
        """
        return identity(await self._connected().api_key())

    async def get_api_key_info(self) -> ApiKeyInfoResponse:
        """Returns what the server knows about the API key.

        Example:
            key = await rest.get_api_key_info()
            print(key.key_id, key.name)
        """
        return await self._send(get_api_key_info.request())

    async def revoke_api_key(self) -> None:
        """Revokes the API key permanently, for everybody who uses it.

        Example:
            async with AsyncRestClient(api_key="tml-leaked") as leaked:
                await leaked.revoke_api_key()
        """
        await self._send(revoke_api_key.request())

    async def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned"
    ) -> ListSessionsResponse:
        """Returns a page of session ids, newest first: at most `limit`, after skipping `offset`.

        Example:
            page = await rest.list_sessions(limit=5)
            print(page.sessions)
        """
        check_page(limit, offset)
        return await self._send(
            list_sessions.request(limit=limit, offset=offset, access_scope=access_scope)
        )

    def iter_sessions(
        self, access_scope: AccessScope = "owned", *, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[str]:
        """Yields the ids of all sessions, newest first, and fetches each page when it is needed.

        Example:
            async for session_id in rest.iter_sessions():
                print(session_id)
        """

        async def page(limit: int, offset: int) -> tuple[Sequence[str], None]:
            return (await self.list_sessions(limit, offset, access_scope)).sessions, None

        return listing(page, str, page_size)

    async def get_session(
        self, session_id: str, access_scope: AccessScope = "owned"
    ) -> GetSessionResponse:
        """Returns the training runs and samplers of a session.

        Example:
            page = await rest.list_sessions(limit=1)
            session = await rest.get_session(page.sessions[0])
            print(session.training_run_ids, session.sampler_ids)
        """
        return await self._send(get_session.request(session_id, access_scope=access_scope))

    async def search_sessions(self, request: SessionSearchRequest) -> SessionSearchResponse:
        """Returns a page of the sessions that match, newest first. Its `next_cursor` is the cursor
        of the next request; None on the last page.

        Example:
            request = SessionSearchRequest(display_name="night", limit=20)
            found = await rest.search_sessions(request)
            print([session.session_id for session in found.sessions], found.next_cursor)
        """
        return await self._send(search_sessions.request(body=encode_session_search(request)))

    def iter_search_sessions(self, request: SessionSearchRequest) -> AsyncIterator[SessionSummary]:
        """Yields all sessions that match, newest first, and fetches each page when it is needed.

        Example:
            request = SessionSearchRequest(user_metadata={"experiment": "7"})
            async for session in rest.iter_search_sessions(request):
                print(session.session_id, session.display_name)
        """

        async def page(
            cursor: SessionSearchCursor | None,
        ) -> tuple[Sequence[SessionSummary], SessionSearchCursor | None]:
            found = await self.search_sessions(evolve(request, cursor=cursor))
            return found.sessions, found.next_cursor

        return search_results(page, request.cursor)

    async def assign_session_project(self, session_id: str, project_id: str) -> None:
        """Moves a session, with everything in it, to a project.

        Example:
            page = await rest.list_sessions(limit=1)
            await rest.assign_session_project(page.sessions[0], "project-1")
        """
        await self._send(
            assign_session_project.request(session_id, body=AssignSessionProjectRequest(project_id))
        )

    async def close_session(
        self, session_id: str, status: Outcome = "success", detail: str | None = None
    ) -> None:
        """Ends a session, such as one whose program was killed. The server refuses later calls of a
        client that still uses it.

        Args:
            session_id: the session's id.
            status: how the session ended, as for `ServiceClient.close`.
            detail: a text about the end.

        Example:
            old = await rest.list_sessions(offset=1000)  # all but the newest
            for session_id in old.sessions:
                await rest.close_session(session_id, "interrupted", "its program was killed")
        """
        body = FinishSessionRequest(FinishReason(status), detail)
        await self._send(finish_session.request(session_id, body=body))

    async def export_session_trace(self, session_id: str) -> str:
        """Has the server write a trace of a session, a Perfetto file, and returns its URL. The file
        can be fetched without an API key for about an hour.

        Raises:
            RequestFailedError: the server could not write the trace.
            WaitTimeoutError: it was not written within `PollSettings.max_wait`.

        Example:
            page = await rest.list_sessions(limit=1)
            url = await rest.export_session_trace(page.sessions[0])
            print(url)  # https://ui.perfetto.dev opens the file
        """
        transport, request = self._connected(), export_session_trace.request(session_id)
        with transport.wait(RequestState(request.operation), "the session's trace") as wait:
            while (trace := await self._send(request)).status == "pending":
                wait.set_owner("computation", "the server is writing the trace")
                await transport.clock.sleep(_TRACE_INTERVAL)
        if not trace.url:
            reason = (
                f"the trace of session {session_id} is {trace.status}: "
                f"{trace.error or 'the server does not say why'}"
            )
            raise RequestFailedError(reason, category="server", operation=request.operation)
        return trace.url

    async def get_sampler(self, sampler_id: str) -> GetSamplerResponse:
        """Returns the weights and the base model that a sampler samples from.

        Example:
            weights = await rest.get_sampler(sampler.sampling_session_id)
            print(weights.base_model, weights.model_path)
        """
        return await self._send(get_sampler.request(sampler_id))

    async def list_training_runs(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: AccessScope = "owned",
        project_id: str | None = None,
    ) -> TrainingRunsResponse:
        """Returns a page of the training runs, or of those of one project, newest first: at most
        `limit`, after skipping `offset`.

        Example:
            page = await rest.list_training_runs(limit=5)
            for run in page.training_runs:
                print(run.training_run_id, run.base_model)
        """
        check_page(limit, offset)
        project = UNSET if project_id is None else project_id
        return await self._send(
            list_training_runs.request(
                limit=limit, offset=offset, access_scope=access_scope, project_id=project
            )
        )

    def iter_training_runs(
        self,
        access_scope: AccessScope = "owned",
        project_id: str | None = None,
        *,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[TrainingRun]:
        """Yields all training runs, or those of one project, newest first, and fetches each page
        when it is needed.

        Example:
            async for run in rest.iter_training_runs():
                print(run.training_run_id, run.last_request_time)
        """

        async def page(limit: int, offset: int) -> tuple[Sequence[TrainingRun], Cursor | None]:
            runs = await self.list_training_runs(limit, offset, access_scope, project_id)
            return runs.training_runs, runs.cursor

        return listing(page, lambda run: run.training_run_id, page_size)

    async def get_training_run(
        self, training_run_id: str, access_scope: AccessScope = "owned"
    ) -> TrainingRun:
        """Returns a training run, with its newest checkpoints. The embedded server also says which
        checkpoints of other runs it has loaded (`origins`), and which runs continue it.

        Example:
            run = await rest.get_training_run(trainer.model_id)
            print(run.base_model, run.lora_rank)
        """
        return await self._send(
            get_training_run.request(training_run_id, access_scope=access_scope)
        )

    async def list_steps(self, training_run_id: str, after: int = 0) -> StepsResponse:
        """Returns the steps of a training run after the one of this number, at most 1,000, with
        their metrics. The embedded server has them; others refuse the call with a NotFoundError.

        Example:
            listed = await rest.list_steps(trainer.model_id)
            print(listed.state, [step.loss for step in listed.steps])
        """
        return await self._send(list_steps.request(training_run_id, after=after))

    async def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: AccessScope = "owned"
    ) -> TrainingRun:
        """Returns the training run that saved a checkpoint.

        Example:
            run = await rest.get_training_run_by_tinker_path(path)
            print(run.training_run_id, run.base_model)
        """
        address = await self._archive_address(tinker_path)
        return await self.get_training_run(address.training_run_id, access_scope)

    async def list_checkpoints(self, training_run_id: str) -> CheckpointsListResponse:
        """Returns all checkpoints of a training run.

        Example:
            listed = await rest.list_checkpoints(trainer.model_id)
            for checkpoint in listed.checkpoints:
                print(checkpoint.tinker_path, checkpoint.size_bytes)
        """
        return await self._send(list_checkpoints.request(training_run_id))

    async def list_user_checkpoints(
        self, limit: int = 100, offset: int = 0
    ) -> CheckpointsListResponse:
        """Returns a page of the checkpoints of all training runs, newest first: at most `limit`,
        after skipping `offset`.

        Example:
            page = await rest.list_user_checkpoints(limit=10)
            for checkpoint in page.checkpoints:
                print(checkpoint.tinker_path, checkpoint.size_bytes)
        """
        check_page(limit, offset)
        return await self._send(list_user_checkpoints.request(limit=limit, offset=offset))

    def iter_user_checkpoints(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[Checkpoint]:
        """Yields the checkpoints of all training runs, newest first, and fetches each page when it
        is needed.

        Collect the checkpoints before you delete any: pages of a list that shrinks leave gaps.

        Example:
            total = 0  # bytes
            async for checkpoint in rest.iter_user_checkpoints():
                total += checkpoint.size_bytes or 0
        """

        async def page(limit: int, offset: int) -> tuple[Sequence[Checkpoint], Cursor | None]:
            checkpoints = await self.list_user_checkpoints(limit, offset)
            return checkpoints.checkpoints, checkpoints.cursor

        return listing(page, lambda checkpoint: checkpoint.tinker_path, page_size)

    async def search_checkpoints(
        self, request: CheckpointSearchRequest
    ) -> CheckpointSearchResponse:
        """Returns a page of the checkpoints that match, newest first. Its `next_cursor` is the
        cursor of the next request; None on the last page.

        Example:
            request = CheckpointSearchRequest(checkpoint_type="sampler", limit=20)
            found = await rest.search_checkpoints(request)
            print([checkpoint.tinker_path for checkpoint in found.checkpoints], found.next_cursor)
        """
        return await self._send(search_checkpoints.request(body=encode_checkpoint_search(request)))

    def iter_search_checkpoints(
        self, request: CheckpointSearchRequest
    ) -> AsyncIterator[Checkpoint]:
        """Yields all checkpoints that match, newest first, and fetches each page when it is
        needed.

        Example:
            request = CheckpointSearchRequest(base_models=["Qwen/Qwen3-8B"])
            async for checkpoint in rest.iter_search_checkpoints(request):
                print(checkpoint.tinker_path)
        """

        async def page(
            cursor: CheckpointSearchCursor | None,
        ) -> tuple[Sequence[Checkpoint], CheckpointSearchCursor | None]:
            found = await self.search_checkpoints(evolve(request, cursor=cursor))
            return found.checkpoints, found.next_cursor

        return search_results(page, request.cursor)

    async def external_weights_upload_start(
        self, base_model: str, lora_config: LoraConfig, destination_project_id: str | None = None
    ) -> ExternalWeightsUploadStartResult:
        """Begins the upload of an adapter that was trained elsewhere, and returns the URL to which
        each of its files is to be sent.

        Send each file with `UploadURL.upload`, then call `external_weights_upload_finish`; or let
        `upload_adapter` do all of this. Experimental on the hosted service.

        Args:
            base_model: the base model of the adapter.
            lora_config: the adapter's shape.
            destination_project_id: the project of the new checkpoint.

        Example:
            start = await rest.external_weights_upload_start("Qwen/Qwen3-8B", LoraConfig(rank=4))
            for name, url in start.urls.items():
                print(name, url)  # url.upload(folder / name) sends the file
        """
        body = ExternalWeightsUploadStartRequest(base_model, lora_config, destination_project_id)
        # a retry begins another upload; the server drops one that is not finished
        response = await self._send(external_weights_upload_start.request(body=body))
        return read_start_response(response, UploadSettings.of(self._connected().config))

    async def external_weights_upload_finish(
        self, upload_id: str
    ) -> ExternalWeightsUploadFinishResult:
        """Makes a checkpoint of an upload, once all of its files were sent. The server checks them.

        Raises:
            BadRequestError: a file is missing, or the adapter does not have the given shape.

        Example:
            start = await rest.external_weights_upload_start("Qwen/Qwen3-8B", LoraConfig(rank=4))
            for name, url in start.urls.items():
                url.upload(f"my-adapter/{name}")
            finished = await rest.external_weights_upload_finish(start.upload_id)
            print(finished.tinker_path)
        """
        body = ExternalWeightsUploadFinishRequest(upload_id)
        response = await self._send(external_weights_upload_finish.request(body=body))
        return ExternalWeightsUploadFinishResult(response.tinker_path)

    async def upload_adapter(
        self,
        folder: str | PathLike[str],
        *,
        base_model: str | None = None,
        lora_config: LoraConfig | None = None,
        destination_project_id: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Uploads a LoRA adapter from a folder, as peft writes it, and returns the path of the new
        checkpoint.

        Where the server allows it, the path can be sampled from and trained further; the embedded
        server allows both.

        Args:
            folder: a folder with `adapter_config.json` and `adapter_model.safetensors`.
            base_model: the base model; by default the one that `adapter_config.json` names.
            lora_config: the adapter's shape; by default the rank of `adapter_config.json`, all
                layers that an adapter can have, and `train_unembed` where the adapter has weights
                for the unembedding.
            destination_project_id: the project of the new checkpoint.
            progress: a function called with the bytes that were sent, and the bytes in all. It
                must not block.

        Raises:
            InvalidInputError: the folder lacks such a file, or a file lacks a value that is needed.
            BadRequestError: the server refuses the adapter; the message says why.
            APIConnectionError, APIStatusError: a file could not be sent, and retries did not help.

        Example:
            path = await rest.upload_adapter("my-adapter", base_model="Qwen/Qwen3-8B")
            sampler = await service.create_sampling_client(model_path=path)
        """
        adapter = await in_thread(AdapterFolder.read, Path(folder))
        shape = lora_config or adapter.lora_config
        start = await self.external_weights_upload_start(
            base_model or adapter.base_model, shape, destination_project_id
        )
        await send_files(start.urls, adapter.folder, progress)
        return (await self.external_weights_upload_finish(start.upload_id)).tinker_path

    async def get_weights_info_by_tinker_path(self, tinker_path: str) -> WeightsInfoResponse:
        """Returns the base model and the LoRA shape of saved weights.

        Example:
            info = await rest.get_weights_info_by_tinker_path(path)
            print(info.base_model, info.lora_rank)
        """
        return await self._send(get_weights_info.request(body=WeightsInfoRequest(tinker_path)))

    async def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> None:
        """Deletes a checkpoint permanently.

        Example:
            saving = trainer.save_state("scrap")
            await saving
            await rest.delete_checkpoint(trainer.model_id, "weights/scrap")
        """
        await self._send(delete_checkpoint.request(*_ids(training_run_id, checkpoint_id)))

    async def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> None:
        """Deletes a checkpoint permanently.

        Example:
            saving = trainer.save_state("scratch")
            path = (await saving).path
            await rest.delete_checkpoint_from_tinker_path(path)
        """
        await self._send(delete_checkpoint.request(*(await self._address(tinker_path)).ids))

    async def publish_checkpoint(self, training_run_id: str, checkpoint_id: str) -> None:
        """Makes a checkpoint readable for everybody. Does nothing where it already is.

        Example:
            saving = trainer.save_weights_for_sampler("for-all")
            await saving
            await rest.publish_checkpoint(trainer.model_id, "sampler_weights/for-all")
        """
        await self._send_change(publish_checkpoint.request(*_ids(training_run_id, checkpoint_id)))

    async def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> None:
        """Makes a checkpoint readable for everybody. Does nothing where it already is.

        Example:
            saving = trainer.save_weights_for_sampler("shared")
            path = (await saving).path
            await rest.publish_checkpoint_from_tinker_path(path)
        """
        await self._send_change(publish_checkpoint.request(*(await self._address(tinker_path)).ids))

    async def unpublish_checkpoint(self, training_run_id: str, checkpoint_id: str) -> None:
        """Makes a checkpoint readable only for its owner. Does nothing where it already is.

        Example:
            saving = trainer.save_weights_for_sampler("for-me")
            await saving
            await rest.unpublish_checkpoint(trainer.model_id, "sampler_weights/for-me")
        """
        await self._send_change(unpublish_checkpoint.request(*_ids(training_run_id, checkpoint_id)))

    async def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> None:
        """Makes a checkpoint readable only for its owner. Does nothing where it already is.

        Example:
            saving = trainer.save_weights_for_sampler("unshared")
            path = (await saving).path
            await rest.unpublish_checkpoint_from_tinker_path(path)
        """
        await self._send_change(
            unpublish_checkpoint.request(*(await self._address(tinker_path)).ids)
        )

    async def set_checkpoint_ttl(
        self, training_run_id: str, checkpoint_id: str, ttl_seconds: int | None
    ) -> None:
        """Sets the time after which a checkpoint is deleted, in seconds from now; None keeps it for
        ever.

        Example:
            saving = trainer.save_state("for-a-week")
            await saving
            await rest.set_checkpoint_ttl(trainer.model_id, "weights/for-a-week", 7 * 24 * 3600)
        """
        await self._send(
            _ttl_request(CheckpointAddress.from_id(training_run_id, checkpoint_id), ttl_seconds)
        )

    async def set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: int | None
    ) -> None:
        """Sets the time after which a checkpoint is deleted, in seconds from now; None keeps it for
        ever.

        Example:
            await rest.set_checkpoint_ttl_from_tinker_path(path, 24 * 3600)  # a day
            await rest.set_checkpoint_ttl_from_tinker_path(path, None)
        """
        await self._send(_ttl_request(await self._address(tinker_path), ttl_seconds))

    async def get_external_weights_urls(self, tinker_path: str) -> ExternalWeightsUrlsResponse:
        """Returns the signed URLs of the files that `save_weights_external` wrote, by file name.
        They need no API key.

        Raises:
            InvalidInputError: the path is not of the kind `external_weights`.

        Example:
            saving = trainer.save_weights_external("to-fetch")
            written = (await saving).path
            answer = await rest.get_external_weights_urls(written)
            print(list(answer.urls))
        """
        if ParsedCheckpointTinkerPath.from_tinker_path(tinker_path).checkpoint_type != "external":
            raise InvalidInputError(
                f"{tinker_path!r} is not of the kind external_weights, and only those have URLs",
                advice="download_checkpoint fetches checkpoints of all kinds.",
            )
        return await self._send(
            get_external_weights_urls.request(*(await self._address(tinker_path)).ids)
        )

    async def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> CheckpointArchiveUrlResponse:
        """Returns the URL of a tar archive of a checkpoint's files, and waits while the server
        builds the archive. The hosted service no longer has this call.

        The URL needs no API key, except for a server that sends the archive itself: then it is the
        URL of this call, which needs the key.

        Raises:
            WaitTimeoutError: the archive was not built within `PollSettings.max_wait`.

        Example:
            saving = trainer.save_weights_for_sampler("to-fetch")
            await saving
            name = "sampler_weights/to-fetch"
            archive = await rest.get_checkpoint_archive_url(trainer.model_id, name)
            print(archive.url, archive.expires)
        """
        bare = await self._bare_archive_ids()
        address = CheckpointAddress.from_id(training_run_id, checkpoint_id, bare=bare)
        return await archive_url(self._connected(), address)

    async def get_checkpoint_archive_url_from_tinker_path(
        self, tinker_path: str
    ) -> CheckpointArchiveUrlResponse:
        """Returns what `get_checkpoint_archive_url` returns, for the checkpoint of a path.

        Example:
            archive = await rest.get_checkpoint_archive_url_from_tinker_path(sampler_path)
            print(archive.url, archive.expires)
        """
        return await archive_url(self._connected(), await self._archive_address(tinker_path))

    async def download_checkpoint(
        self,
        tinker_path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Path:
        """Downloads the files of a checkpoint to a new folder, and returns that folder. Writes all
        files, or none where it raises.

        A download that breaks off is resumed, URLs that expired are renewed, and sizes and digests
        are checked.

        Args:
            tinker_path: the checkpoint's path. The hosted service serves only checkpoints of
                `save_weights_external`, other servers all that they saved.
            output_dir: the parent of the new folder, which is named after the path, such as
                `S1_train_0_weights_0001`.
            force: whether to replace a folder of that name.
            progress: a function called with the bytes that arrived, and the bytes in all, None
                while those are not known; `DownloadBar` shows them. It must not block. An
                exception that it raises ends the download.

        Raises:
            InvalidInputError: the folder exists already.
            CheckpointDownloadError: the files are damaged, not safe to unpack, or cannot be
                written.
            APIConnectionError, APIStatusError: the files cannot be fetched, and retries did not
                help.
            WaitTimeoutError: the server did not build the archive within `PollSettings.max_wait`.

        Example:
            from tinkex import DownloadBar

            with DownloadBar() as bar:
                await rest.download_checkpoint(sampler_path, output_dir=folder, progress=bar)
        """
        address = await self._archive_address(tinker_path)
        target = Path(output_dir) / folder_name(tinker_path)
        return await download(self._connected(), address, target, force=force, progress=progress)

    async def push_to_hub(
        self,
        tinker_path: str,
        repo_id: str,
        *,
        private: bool = True,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        allow_patterns: Sequence[str] | None = None,
        ignore_patterns: Sequence[str] | None = None,
        model_card: bool = True,
        token: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Downloads a checkpoint and uploads it to the Hugging Face hub. Returns the URL of the
        commit there.

        Args:
            tinker_path: the checkpoint's path, as for `download_checkpoint`.
            repo_id: the repository, `<owner>/<name>`; created where it does not exist.
            private: whether a repository that is created is private.
            revision: the branch; created where it does not exist.
            commit_message: the message of the commit; by default it names the path.
            create_pr: whether to open a pull request, and return its URL.
            allow_patterns, ignore_patterns: the files to upload, or to leave out, such as
                `*.safetensors`.
            model_card: whether to write a README.md where the checkpoint has none.
            token: the hub's token; by default the one that huggingface_hub finds, in HF_TOKEN or
                its files.
            progress: as for `download_checkpoint`.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: the hub refuses the upload.
        """
        upload = HubUpload(
            repo_id=repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            token=token,
        )
        with TemporaryDirectory(prefix="tinkex-push-") as folder:
            content = await self.download_checkpoint(
                tinker_path, output_dir=folder, progress=progress
            )
            if model_card:
                add_model_card(content, tinker_path, repo_id)
            return await in_thread(upload.upload, content, tinker_path)

    async def copy_weights(
        self,
        path: str,
        destination_project_id: str | None = None,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> str:
        """Copies saved weights to a project, and returns the path of the copy.

        Args:
            path: the path of saved weights of any kind, `tinker://…`.
            destination_project_id: the project; by default `Config.project_id`.
            ttl_seconds: seconds after which the copy is deleted; by default it is kept.
            weights_access_token: a token that allows reading the weights of others.

        Raises:
            InvalidInputError: no project is given or configured.

        Example:
            copy = await rest.copy_weights(sampler_path, "project-1", ttl_seconds=24 * 3600)
            print(copy)
        """
        project_id = destination_project_id or self._connected().config.project_id
        if not project_id:
            raise InvalidInputError(
                "copy_weights needs a destination project, and none is given or configured",
                advice="Set TINKER_PROJECT_ID, or give Config(project_id=…).",
            )
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        body = CopyWeightsRequest(path, destination_project_id=project_id, ttl_seconds=ttl_seconds)
        token = UNSET if weights_access_token is None else weights_access_token
        return (
            await self._send(copy_weights.request(body=body, x_tinker_weights_access_token=token))
        ).tinker_path

    async def _address(self, tinker_path: str) -> CheckpointAddress:
        """Returns the address of a checkpoint, once it is known which calls the server lacks."""
        address = CheckpointAddress.from_path(tinker_path)  # raises before anything is sent
        await discover(self._connected())
        return address

    async def _archive_address(self, tinker_path: str) -> CheckpointAddress:
        """Returns the address that the server's archive route takes."""
        CheckpointAddress.from_path(tinker_path, bare=True)  # raises before anything is sent
        return CheckpointAddress.from_path(tinker_path, bare=await self._bare_archive_ids())

    async def _bare_archive_ids(self) -> bool:
        """Returns whether the archive route takes the bare names of checkpoints."""
        await discover(self._connected())
        return self._connected().server.dialect.bare_archive_ids

    async def _send_change(self, request: Request[object]) -> None:
        """Sends a change of access. A server answers 409 where there is nothing to change, so a
        conflict is neither retried nor raised.
        """
        try:
            await self._send(request, repeatable=False)
        except ConflictError:
            return


def _ids(training_run_id: str, checkpoint_id: str) -> tuple[str, str, str]:
    return CheckpointAddress.from_id(training_run_id, checkpoint_id).ids


def _ttl_request(address: CheckpointAddress, seconds: int | None) -> Request[None]:
    check_optional_int("ttl_seconds", seconds, 0)
    return set_checkpoint_ttl.request(*address.ids, body=SetCheckpointTtlRequest(seconds))
