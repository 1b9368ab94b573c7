"""`AsyncRestClient`: sessions, training runs and checkpoints, without a session of one's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
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
    get_session,
    list_sessions,
    search_sessions,
)
from tinkex_api.api.training_runs import get_training_run, list_checkpoints, list_training_runs
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
    SetCheckpointTtlRequest,
    WeightsInfoRequest,
)
from tinkex_api.types import UNSET, Request

from tinkex.downloads.download import Progress, download, folder_name
from tinkex.downloads.sources import archive_url
from tinkex.errors import ConflictError, InvalidInputError, RequestFailedError
from tinkex.errors.hints import hinted
from tinkex.rest.adapter_upload import AdapterFolder, send_files
from tinkex.rest.connection import AsyncConnection
from tinkex.rest.external_weights import (
    ExternalWeightsUploadFinishResult,
    ExternalWeightsUploadStartResult,
    started,
)
from tinkex.rest.hub import HubUpload, add_model_card
from tinkex.rest.identity import identity
from tinkex.rest.paging import PAGE_SIZE, check_page, listing, search_results
from tinkex.session.discovery import discover
from tinkex.threads import in_thread
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
from tinkex.types.checkpoint_address import CheckpointAddress
from tinkex.types.number_checks import check_optional_int
from tinkex.waiting.wait import RequestState
from tinkex.wire.json import encode_checkpoint_search, encode_session_search

T = TypeVar("T")

_TRACE_INTERVAL = 5.0  # seconds


@hinted
class AsyncRestClient(AsyncConnection):
    """Looks at and manages what is on a server: its models, sessions, training runs and
    checkpoints. Begins no session.

    Made by `AsyncServiceClient.create_rest_client`, or by itself. Each call may raise
    `UnsupportedByServer` where the server has no such call, `AuthenticationError` or
    `PermissionDeniedError` where the key does not allow it, `NotFoundError` where there is no such
    thing, and `APIConnectionError` where the server cannot be reached.

    What is said of a checkpoint takes its path, `tinker://<training run>/<kind>/<name>`, in the
    `…_from_tinker_path` and `…_by_tinker_path` calls, and in the others the training run and
    `Checkpoint.checkpoint_id`. `access_scope` is "owned" for one's own things, "accessible" for all
    that one may read.

    Example:
        async with AsyncRestClient(base_url="http://127.0.0.1:8765") as rest:
            async for checkpoint in rest.iter_user_checkpoints():
                print(checkpoint.tinker_path, checkpoint.time)

    Args:
        config: all settings.
        base_url: where the server is; by default `TINKER_BASE_URL`, else the hosted service. Goes
            before the one of `config`.
        api_key: by default `TINKER_API_KEY`. Goes before the one of `config`.

    Raises:
        ConfigError: a setting is missing or wrong.
    """

    async def get_server_capabilities(self) -> GetServerCapabilitiesResponse:
        """The base models that the server can train and sample."""
        capabilities = await self._send(get_server_capabilities.request())
        for model in capabilities.supported_models:
            # one server calls it so
            model.model_name = model.model_name or model.additional_properties.get("model_id")
        return capabilities

    async def whoami(self) -> WhoamiResponse:
        """Whose the credential is, by its own words. Raises `InvalidInputError` where neither it
        nor what it is exchanged for is a JWT.
        """
        return identity(await self._connected().api_key())

    async def get_api_key_info(self) -> ApiKeyInfoResponse:
        """What the server knows of the API key."""
        return await self._send(get_api_key_info.request())

    async def revoke_api_key(self) -> None:
        """Makes the API key void, for good and for everybody who has it."""
        await self._send(revoke_api_key.request())

    async def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned"
    ) -> ListSessionsResponse:
        """A page of the sessions' ids, newest first: at most `limit`, after leaving out
        `offset`.
        """
        check_page(limit, offset)
        return await self._send(
            list_sessions.request(limit=limit, offset=offset, access_scope=access_scope)
        )

    def iter_sessions(
        self, access_scope: AccessScope = "owned", *, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[str]:
        """The ids of all sessions, newest first, fetched page by page as they are asked for."""

        async def page(limit: int, offset: int) -> tuple[Sequence[str], None]:
            return (await self.list_sessions(limit, offset, access_scope)).sessions, None

        return listing(page, str, page_size)

    async def get_session(
        self, session_id: str, access_scope: AccessScope = "owned"
    ) -> GetSessionResponse:
        """The training runs and samplers of a session."""
        return await self._send(get_session.request(session_id, access_scope=access_scope))

    async def search_sessions(self, request: SessionSearchRequest) -> SessionSearchResponse:
        """A page of the sessions that fit, newest first; `next_cursor` is for the next request, and
        None on the last page.
        """
        return await self._send(search_sessions.request(body=encode_session_search(request)))

    def iter_search_sessions(self, request: SessionSearchRequest) -> AsyncIterator[SessionSummary]:
        """All sessions that fit, newest first, fetched page by page as they are asked for."""

        async def page(
            cursor: SessionSearchCursor | None,
        ) -> tuple[Sequence[SessionSummary], SessionSearchCursor | None]:
            found = await self.search_sessions(evolve(request, cursor=cursor))
            return found.sessions, found.next_cursor

        return search_results(page, request.cursor)

    async def assign_session_project(self, session_id: str, project_id: str) -> None:
        """Moves a session, with all that is in it, to a project."""
        await self._send(
            assign_session_project.request(session_id, body=AssignSessionProjectRequest(project_id))
        )

    async def export_session_trace(self, session_id: str) -> str:
        """The URL of a trace of what a session did, a Perfetto file that can be fetched without a
        key for about an hour.

        Waits until the server has made it.

        Raises:
            RequestFailedError: the server could not make it.
            WaitTimeoutError: it was not made within `PollSettings.max_wait`.
        """
        transport, request = self._connected(), export_session_trace.request(session_id)
        with transport.wait(RequestState(request.operation), "the session's trace") as wait:
            while (trace := await self._send(request)).status == "pending":
                wait.set_owner("computation", "which the server is at")
                await transport.clock.sleep(_TRACE_INTERVAL)
        if not trace.url:
            reason = (
                f"the trace of session {session_id} is {trace.status}: "
                f"{trace.error or 'the server does not say why'}"
            )
            raise RequestFailedError(reason, category="server", operation=request.operation)
        return trace.url

    async def get_sampler(self, sampler_id: str) -> GetSamplerResponse:
        """What a sampler samples from."""
        return await self._send(get_sampler.request(sampler_id))

    async def list_training_runs(
        self,
        limit: int = 20,
        offset: int = 0,
        access_scope: AccessScope = "owned",
        project_id: str | None = None,
    ) -> TrainingRunsResponse:
        """A page of the training runs, maybe of one project, newest first: at most `limit`, after
        leaving out `offset`.
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
        """All training runs, maybe of one project, newest first, fetched page by page as they are
        asked for.
        """

        async def page(limit: int, offset: int) -> tuple[Sequence[TrainingRun], Cursor | None]:
            runs = await self.list_training_runs(limit, offset, access_scope, project_id)
            return runs.training_runs, runs.cursor

        return listing(page, lambda run: run.training_run_id, page_size)

    async def get_training_run(
        self, training_run_id: str, access_scope: AccessScope = "owned"
    ) -> TrainingRun:
        """A training run, with its newest checkpoints."""
        return await self._send(
            get_training_run.request(training_run_id, access_scope=access_scope)
        )

    async def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: AccessScope = "owned"
    ) -> TrainingRun:
        """The training run that a checkpoint is of."""
        run_id = CheckpointAddress.of_path(
            tinker_path, bare=await self._bare_archive_ids()
        ).training_run_id
        return await self.get_training_run(run_id, access_scope)

    async def list_checkpoints(self, training_run_id: str) -> CheckpointsListResponse:
        """All checkpoints of a training run."""
        return await self._send(list_checkpoints.request(training_run_id))

    async def list_user_checkpoints(
        self, limit: int = 100, offset: int = 0
    ) -> CheckpointsListResponse:
        """A page of the checkpoints of all training runs, newest first: at most `limit`, after
        leaving out `offset`.
        """
        check_page(limit, offset)
        return await self._send(list_user_checkpoints.request(limit=limit, offset=offset))

    def iter_user_checkpoints(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[Checkpoint]:
        """The checkpoints of all training runs, newest first, fetched page by page as they are
        asked for.

        Collect what is to be deleted before it is: a list that shrinks while it is read has gaps.
        """

        async def page(limit: int, offset: int) -> tuple[Sequence[Checkpoint], Cursor | None]:
            checkpoints = await self.list_user_checkpoints(limit, offset)
            return checkpoints.checkpoints, checkpoints.cursor

        return listing(page, lambda checkpoint: checkpoint.tinker_path, page_size)

    async def search_checkpoints(
        self, request: CheckpointSearchRequest
    ) -> CheckpointSearchResponse:
        """A page of the checkpoints that fit, newest first; `next_cursor` is for the next request,
        and None on the last page.
        """
        return await self._send(search_checkpoints.request(body=encode_checkpoint_search(request)))

    def iter_search_checkpoints(
        self, request: CheckpointSearchRequest
    ) -> AsyncIterator[Checkpoint]:
        """All checkpoints that fit, newest first, fetched page by page as they are asked for."""

        async def page(
            cursor: CheckpointSearchCursor | None,
        ) -> tuple[Sequence[Checkpoint], CheckpointSearchCursor | None]:
            found = await self.search_checkpoints(evolve(request, cursor=cursor))
            return found.checkpoints, found.next_cursor

        return search_results(page, request.cursor)

    async def external_weights_upload_start(
        self, base_model: str, lora_config: LoraConfig, destination_project_id: str | None = None
    ) -> ExternalWeightsUploadStartResult:
        """Begins to upload an adapter that was made elsewhere: says where each of its files goes.

        Send each file by `UploadURL.upload`, then call `external_weights_upload_finish`; or let
        `upload_adapter` do it all. Experimental on the hosted service.

        Args:
            base_model: the base model that the adapter is for.
            lora_config: its shape.
            destination_project_id: the project that the checkpoint is to be in.
        """
        body = ExternalWeightsUploadStartRequest(base_model, lora_config, destination_project_id)
        # a repeat begins another upload, and the one that nobody finishes is dropped by the server
        return started(await self._send(external_weights_upload_start.request(body=body)))

    async def external_weights_upload_finish(
        self, upload_id: str
    ) -> ExternalWeightsUploadFinishResult:
        """Makes a checkpoint of an upload, all of whose files were sent. The server checks them.

        Raises:
            BadRequestError: a file is missing, or is no adapter of the shape that was said.
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
        progress: Progress | None = None,
    ) -> str:
        """Uploads a LoRA adapter from a folder as peft writes it; returns the path of the
        checkpoint.

        The path can be sampled from and trained on where the server lets it: the embedded server
        does both.

        Args:
            folder: where `adapter_config.json` and `adapter_model.safetensors` are.
            base_model: by default the one that `adapter_config.json` names.
            lora_config: by default the rank of `adapter_config.json`, and all layers that an
                adapter
                can have; `train_unembed` where the adapter has weights for the unembedding.
            destination_project_id: the project that the checkpoint is to be in.
            progress: called with the bytes that were sent and those in all. It must not block.

        Raises:
            InvalidInputError: the folder has no such files, or they do not say what is asked for.
            BadRequestError: the server refuses the adapter; the text says why.
            APIConnectionError, APIStatusError: a file could not be sent, and trying again did not
                help.

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
        """What saved weights are of: the base model, and the adapter's shape."""
        return await self._send(get_weights_info.request(body=WeightsInfoRequest(tinker_path)))

    async def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> None:
        """Deletes a checkpoint for good."""
        await self._send(
            CheckpointAddress.of_id(training_run_id, checkpoint_id).request(
                delete_checkpoint.request
            )
        )

    async def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> None:
        """Deletes a checkpoint for good."""
        await self._send((await self._place(tinker_path)).request(delete_checkpoint.request))

    async def publish_checkpoint(self, training_run_id: str, checkpoint_id: str) -> None:
        """Lets everybody read a checkpoint. Does nothing where they may already."""
        await self._unless_so(
            CheckpointAddress.of_id(training_run_id, checkpoint_id).request(
                publish_checkpoint.request
            )
        )

    async def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> None:
        """Lets everybody read a checkpoint. Does nothing where they may already."""
        await self._unless_so((await self._place(tinker_path)).request(publish_checkpoint.request))

    async def unpublish_checkpoint(self, training_run_id: str, checkpoint_id: str) -> None:
        """Lets nobody else read a checkpoint. Does nothing where nobody may."""
        await self._unless_so(
            CheckpointAddress.of_id(training_run_id, checkpoint_id).request(
                unpublish_checkpoint.request
            )
        )

    async def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> None:
        """Lets nobody else read a checkpoint. Does nothing where nobody may."""
        await self._unless_so(
            (await self._place(tinker_path)).request(unpublish_checkpoint.request)
        )

    async def set_checkpoint_ttl(
        self, training_run_id: str, checkpoint_id: str, ttl_seconds: int | None
    ) -> None:
        """Has a checkpoint deleted in `ttl_seconds`, counted from now; None keeps it for ever."""
        await self._send(
            CheckpointAddress.of_id(training_run_id, checkpoint_id).request(_ttl(ttl_seconds))
        )

    async def set_checkpoint_ttl_from_tinker_path(
        self, tinker_path: str, ttl_seconds: int | None
    ) -> None:
        """Has a checkpoint deleted in `ttl_seconds`, counted from now; None keeps it for ever."""
        await self._send((await self._place(tinker_path)).request(_ttl(ttl_seconds)))

    async def get_external_weights_urls(self, tinker_path: str) -> ExternalWeightsUrlsResponse:
        """Where the files that `save_weights_external` made can be fetched, by name. The URLs want
        no key.

        Raises:
            InvalidInputError: the path is not of the kind `external_weights`.
        """
        if ParsedCheckpointTinkerPath.from_tinker_path(tinker_path).checkpoint_type != "external":
            raise InvalidInputError(
                f"{tinker_path!r} is not of the kind external_weights, and only those have URLs",
                advice="download_checkpoint fetches checkpoints of all kinds.",
            )
        return await self._send(
            (await self._place(tinker_path)).request(get_external_weights_urls.request)
        )

    async def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> CheckpointArchiveUrlResponse:
        """Where the files of a checkpoint can be fetched as a tar. The hosted service has this call
        no more.

        The URL wants no key; of a server that sends the file itself it is the call's own, which
        does. Waits while the file is built.

        Raises:
            WaitTimeoutError: it was not built within `PollSettings.max_wait`.
        """
        place = CheckpointAddress.of_id(
            training_run_id, checkpoint_id, bare=await self._bare_archive_ids()
        )
        return await archive_url(self._connected(), place)

    async def get_checkpoint_archive_url_from_tinker_path(
        self, tinker_path: str
    ) -> CheckpointArchiveUrlResponse:
        """Does, and raises, what `get_checkpoint_archive_url` does."""
        place = CheckpointAddress.of_path(tinker_path, bare=await self._bare_archive_ids())
        return await archive_url(self._connected(), place)

    async def download_checkpoint(
        self,
        tinker_path: str,
        *,
        output_dir: str | PathLike[str] = ".",
        force: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """The folder that the files of a checkpoint were fetched to: all of them, or none where
            this raises.

        What breaks off goes on where it was; URLs whose time is over are asked for anew; sizes and
        digests are checked.

        Args:
            tinker_path: of a kind that the server gives out: the hosted service those of
                `save_weights_external`, others what they saved.
            output_dir: where the folder is to be, named after the path: `S1_train_0_weights_0001`.
            force: whether a folder of that name is replaced.
            progress: called with the bytes that came and those in all, which are None while they
                are not known; `DownloadBar` shows
                them. It must not block. What it raises ends the download.

        Raises:
            InvalidInputError: the folder is there already.
            CheckpointDownloadError: what came is not what was promised, or not safe to unpack, or
                cannot be written.
            APIConnectionError, APIStatusError: it cannot be fetched, and
                trying again did not help.
            WaitTimeoutError: the server did not build the archive within `PollSettings.max_wait`.
        """
        place = CheckpointAddress.of_path(tinker_path, bare=await self._bare_archive_ids())
        target = Path(output_dir) / folder_name(tinker_path)
        return await download(self._connected(), place, target, force=force, progress=progress)

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
        progress: Progress | None = None,
    ) -> str:
        """Downloads a checkpoint and puts it on the Hugging Face hub; gives the URL of the commit
        there.

        Args:
            tinker_path: of a kind that the server gives out, as for `download_checkpoint`.
            repo_id: `<owner>/<name>`; made where there is none yet.
            private: whether one that is made is for its owner's eyes alone.
            revision: the branch; made where there is none yet.
            commit_message: by default names the path.
            create_pr: whether to open a pull request instead; the URL is then its own.
            allow_patterns, ignore_patterns: which files to put there, as `*.safetensors`.
            model_card: whether a README.md is written where the checkpoint has none.
            token: of the hub; by default the one that huggingface_hub finds, in HF_TOKEN or its
                files.
            progress: as for `download_checkpoint`.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: the hub refuses.
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
            return await in_thread(upload.put, content, tinker_path)

    async def copy_weights(
        self,
        path: str,
        destination_project_id: str | None = None,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> str:
        """The path of a copy of saved weights in a project.

        Args:
            path: `tinker://…`, of any kind of saved weights.
            destination_project_id: by default `Config.project_id`.
            ttl_seconds: how long the copy is kept; for ever by default.
            weights_access_token: a right to read weights of others.

        Raises:
            InvalidInputError: no project is given, and none configured.
        """
        project_id = destination_project_id or self._connected().config.project_id
        if not project_id:
            raise InvalidInputError(
                "copy_weights copies into a project, and none is given or configured",
                advice="Set TINKER_PROJECT_ID, or give Config(project_id=…).",
            )
        check_optional_int("ttl_seconds", ttl_seconds, 0)
        body = CopyWeightsRequest(path, destination_project_id=project_id, ttl_seconds=ttl_seconds)
        token = UNSET if weights_access_token is None else weights_access_token
        return (
            await self._send(copy_weights.request(body=body, x_tinker_weights_access_token=token))
        ).tinker_path

    async def _place(self, tinker_path: str) -> CheckpointAddress:
        """Returns the place that a path names, once it is known what the server lacks."""
        await discover(self._connected())
        return CheckpointAddress.of_path(tinker_path)

    async def _bare_archive_ids(self) -> bool:
        """Returns whether the server's archives are found by the bare names of checkpoints."""
        await discover(self._connected())
        return self._connected().server.dialect.bare_archive_ids

    async def _unless_so(self, request: Request[object]) -> None:
        """Sends a change that a server refuses as a conflict where there is nothing to change, so
        that no conflict is worth another try.
        """
        try:
            await self._send(request, repeatable=False)
        except ConflictError:
            return


def _ttl(seconds: int | None) -> Callable[[str, str, str], Request[None]]:
    check_optional_int("ttl_seconds", seconds, 0)
    return lambda run_id, kind, name: set_checkpoint_ttl.request(
        run_id, kind, name, body=SetCheckpointTtlRequest(seconds)
    )
