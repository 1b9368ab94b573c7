"""`Answers`: turns the embedded server's answers into those of a profile's server."""

from __future__ import annotations

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from tinkex_server.errors import Refused
from tinkex_server.profiles.history import History
from tinkex_server.profiles.polls import Polls, respond
from tinkex_server.profiles.profile import NUMBERED, Profile
from tinkex_server.profiles.templates import Fields, Reply, fill
from tinkex_server.state import ServerState
from tinkex_server.wire.refusals import headers_of, status_of
from tinkex_server.wire.responses import json_response


@frozen(eq=False)
class Answers:
    """The answers to POSTs, promises and refusals among them."""

    _state: ServerState
    _profile: Profile
    _polls: Polls
    _history: History

    async def accept(self, operation: str, sent: Fields, answer: Fields) -> Response:
        """Returns the answer to a request that the embedded server has accepted. `sent` are the
        request's fields as they arrived.
        """
        if request_id := answer.get("request_id"):
            if self._profile.works_in_post and (
                failure := await self._polls.wait_for_failure(request_id)
            ):
                return respond(failure)
            return self._promise(operation, sent, answer)
        if shape := self._profile.promised.get(operation):
            return self.promise_reply(operation, sent, Reply(200, shape.of(answer, sent=sent)))
        if operation == "create_sampling_session":
            answer = self._sampling_session(sent, answer)
        outward = self._profile.paths.outward(answer, self._state.data_dir)
        return self._shape(operation, sent, outward)

    def promise_reply(self, operation: str, sent: Fields, reply: Reply) -> Response:
        """Returns the promise of a future whose reply is already known."""
        return self._promise(operation, sent, {"request_id": self._polls.add_known(reply)})

    def refuse(self, operation: str, request: Request, sent: Fields, refusal: Refused) -> Response:
        """Returns the answer to a request that the embedded server has refused: the refusal, or a
        promise of a future that fails.
        """
        reply = self.refusal(request, refusal)
        if self._profile.refusals_take_numbers:
            self._history.note_refused(operation, sent)
        if status_of(refusal) in self._profile.refuses_late and operation in NUMBERED:
            return self.promise_reply(operation, sent, reply)
        return respond(reply)

    def refusal(self, request: Request, refusal: Refused) -> Reply:
        """Returns a refusal in the profile's form."""
        status = status_of(refusal)
        values = {"detail": refusal.detail, "status": status, "path": request.url.path}
        return Reply(status, fill(self._profile.refusal, values), headers_of(refusal))

    def _sampling_session(self, sent: Fields, answer: Fields) -> Fields:
        rule = self._profile.sampling
        if rule.needs_base and not sent.get("base_model"):
            self._history.baseless_sessions.add(answer["sampling_session_id"])
        if rule.base_session and not sent.get("model_path"):
            return {**answer, "sampling_session_id": rule.base_session}
        return answer

    def _promise(self, operation: str, sent: Fields, promise: Fields) -> Response:
        if self._profile.repeats_by_id_alone and operation in NUMBERED:
            first = self._history.first_id(operation, sent, promise["request_id"])
            promise = {**promise, "request_id": first}
        if not self._profile.sample_sequence_ids:
            promise = {
                name: value for name, value in promise.items() if name != "sample_sequence_ids"
            }
        shaped = self._profile.promise.of(promise, sent=sent, operation=operation)
        return self._shape(operation, sent, shaped)

    def _shape(self, operation: str, sent: Fields, answer: Fields) -> Response:
        status = self._profile.statuses.get(operation, 200)
        if status == 204:
            return Response(status_code=status)
        if operation in self._profile.null_answers:
            return json_response(status, None)
        shape = self._profile.shapes.get(operation)
        shaped = shape.of(answer, sent=sent) if shape else answer
        given_out, own = shaped.get("request_id"), answer.get("request_id")
        if given_out and own and given_out != own:
            self._polls.alias(given_out, own)
        return json_response(status, shaped)
