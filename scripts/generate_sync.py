"""Writes the blocking facade, tinkex/sync/, from the source of the asyncio clients. Part of `make
generate`.

Each `Async…Client` becomes a class without the prefix. Its instances hold the asyncio client and
use the process's `Portal`. Signatures, types and docstrings are taken from the source. The form of
a member decides what is generated for it:

    def … -> AsyncAPIFuture[T]           an `APIFuture[T]`, which has `.result()`
    async def … -> Async…Client          waits, and wraps the client
    async def … -> T                     waits, and returns T; an `OwnFuture` if the official SDK
                                         returns a future
    async def … -> str                   waits, and returns a `Text`
    async def … -> None                  waits, and returns `DONE`
    (async) def … -> AsyncIterator[T]    returns an `Iterator[T]`
    def … -> Async…Client                wraps the client
    @staticmethod def … -> Async…Client  creates a client, and wraps it
    @staticmethod async def …            the same body, without `await`
    @staticmethod def …_async            calls the method without `_async` in a thread, and returns
                                         an `APIFuture`
    def … -> str                         returns the string
    a public annotation in the class     a property, read-only unless it is in SETTABLE; a client is
                                         wrapped
    @property                            the same
    a parameter Async…Client             receives the blocking client, passes on the asyncio client
    any other public member              the script fails: a rule is missing

A client that another client creates is an `OwnFuture`: it has a `.result()` like the future that
the official SDK returns.

The methods in `TWINS` also get a twin `…_async`, for programs written for the official SDK, which
has these methods and deprecates them.

The script fails if a docstring still contains `await` or `async` after the replacements below,
other than in the name of a parameter.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeGuard

from attrs import frozen

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "service": "tinkex/service.py",
    "training": "tinkex/training/client.py",
    "sampling": "tinkex/sampling/client.py",
    "rest": "tinkex/rest/client.py",
    "admin": "tinkex/rest/admin.py",
    "recovery": "tinkex/recovery/run.py",
}
CLIENTS = {
    "AsyncServiceClient": "service",
    "AsyncTrainingClient": "training",
    "AsyncSamplingClient": "sampling",
    "AsyncRestClient": "rest",
    "AsyncAdminClient": "admin",
    "AsyncRecoverableRun": "recovery",
}
BASES = {
    "AsyncConnection": "tinkex/rest/connection.py",
    "AsyncModelWeights": "tinkex/training/weights.py",
}
"""Base classes of the clients, whose members are generated as well."""
MADE_BY_USERS = ("AsyncServiceClient", "AsyncRestClient", "AsyncAdminClient")
MADE_BY_BOTH = ("AsyncRestClient",)
"""Classes whose instances are made by users and by other clients."""
SAMPLING_CALLS = ("sample", "compute_logprobs")
TWINS = frozenset(
    {
        *(
            "create_lora_training_client",
            "create_training_client_from_state",
            "create_training_client_from_state_with_optimizer",
        ),
        *(
            "create_sampling_client",
            "get_server_capabilities",
            "get_info",
            "get_base_model",
            *SAMPLING_CALLS,
        ),
        *(
            "forward",
            "forward_backward",
            "forward_backward_custom",
            "optim_step",
            "save_state",
            "load_state",
        ),
        *(
            "load_state_with_optimizer",
            "save_weights_for_sampler",
            "save_weights_external",
            "save_weights_and_get_sampling_client",
        ),
        *(
            "list_sessions",
            "get_session",
            "search_sessions",
            "assign_session_project",
            "export_session_trace",
            "get_sampler",
        ),
        *(
            "list_training_runs",
            "get_training_run",
            "get_training_run_by_tinker_path",
            "list_checkpoints",
            "list_user_checkpoints",
        ),
        *(
            "delete_checkpoint",
            "delete_checkpoint_from_tinker_path",
            "publish_checkpoint_from_tinker_path",
        ),
        *(
            "unpublish_checkpoint_from_tinker_path",
            "set_checkpoint_ttl_from_tinker_path",
            "get_external_weights_urls",
        ),
        *(
            "get_checkpoint_archive_url",
            "get_checkpoint_archive_url_from_tinker_path",
            "copy_weights",
        ),
        *("get_audit_log", "get_billing_usage", "get_current_checkpoint_storage_usage"),
    }
)
SETTABLE = ("on_queue_state_change",)
CONTEXT = {"__aenter__": "__enter__", "__aexit__": "__exit__"}

_WORDS = [
    (re.compile(r"\(await (\w+)\)"), r"\1.result()"),  # (await fb).metrics
    (re.compile(r"^(\s*)await (\w+)$", re.M), r"\1\2.result()"),  # await step
    (re.compile(r"= await "), "= "),
    (re.compile(r"^(\s*)await (?=[\w.]+\()", re.M), r"\1"),  # await client.close()
    (re.compile(r"\basync (with|for)\b"), r"\1"),
    (re.compile(r"\bAsync(?=[A-Z])"), ""),
    (re.compile(r"when\s+awaited:"), "by `.result()`:"),
    (re.compile(r"whenever they are(\s+)awaited"), r"whenever their results are\1asked for"),
    (re.compile(r"before\s+awaiting\s+either"), "before asking either for its result"),
]


class CannotConvert(Exception):
    """A part of the source for which there is no rule."""


@frozen
class Source:
    """One module of the asyncio implementation."""

    module: str
    client: ast.ClassDef
    imports: list[str]

    @classmethod
    def read(cls, path: Path) -> Source:
        client, imports = _class(path, CLIENTS)
        for base in map(ast.unparse, client.bases):
            inherited, more = _class(ROOT / BASES[base], BASES)
            client.body[1:1] = inherited.body[1:]  # both begin with a docstring
            imports += more
        return cls(".".join(path.with_suffix("").relative_to(ROOT).parts), client, imports)


def _class(path: Path, names: Collection[str]) -> tuple[ast.ClassDef, list[str]]:
    """Returns the only class of a module that has one of the names, and the module's imports,
    those for type checkers too.
    """
    tree = ast.parse(path.read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names]
    blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
    return found, [
        ast.unparse(node)
        for block in blocks
        for node in block
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


def render(out: Path) -> None:
    """Writes the package to the folder `out`, with more imports than it needs and not formatted."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "__init__.py").write_text(
        '"""The blocking clients. Generated from the asyncio ones by `make generate`; not to be '
        'edited."""\n'
    )
    for name, path in SOURCES.items():
        (out / f"{name}.py").write_text(module(Source.read(ROOT / path)))


def module(source: Source) -> str:
    name, text = source.client.name, client_class(source.client)
    head = [
        f'"""`{_plain(name)}`: the blocking twin of `{source.module}.{name}`. Generated by `make '
        'generate`; not to be edited."""',
        *(
            ["# pyright: reportPrivateUsage=false"]
            if _takes_clients(source.client) or "._around(" in text
            else []
        ),
        *source.imports,
        f"from {source.module} import {name}",
        "from typing import TYPE_CHECKING, Self",
        "from tinkex.portal import portal as portals",
        "from tinkex.futures.api_future import AsyncAPIFuture",
        "from tinkex.portal.future import APIFuture",
        "from tinkex.waiting.wait import RequestState",
        "from tinkex.threads import in_thread",
        "from tinkex.portal.portal import Portal",
        "from tinkex.portal.iteration import iterate",
        "from collections.abc import Iterator",
        "from tinkex.portal.official_calls import DONE, Done, Text, deprecated_twin",
        "from tinkex_api.types import OwnFuture",
        "from tinkex.errors.hints import hinted",
        "if TYPE_CHECKING:",
        *(_indent(_import(client)) for client in CLIENTS if client != name),
    ]
    return "\n".join(head) + "\n\n\n" + text


def client_class(client: ast.ClassDef) -> str:
    base = "" if client.name in MADE_BY_USERS else "(OwnFuture)"
    parts = [f"@hinted\nclass {_plain(client.name)}{base}:", _indent(_docstring(client))]
    members = [node for node in client.body if _is_public(node)]
    parts.append(_indent(_constructor(client)))
    parts += [_indent(_property(node)) for node in members if isinstance(node, ast.AnnAssign)]
    parts += [
        _indent(_method(node))
        for node in members
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    parts += [_indent(_twin(node)) for node in members if _has_twin(node)]
    if any(
        isinstance(node, ast.FunctionDef) and node.name == "__getstate__" for node in client.body
    ):
        parts.append(_indent(_pickling(client)))
    parts.append(_indent(_representation(client)))
    return "\n\n".join(parts).replace(_indent(_indent(_import(client.name))) + "\n", "") + "\n"


def _is_public(node: ast.stmt) -> bool:
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and not node.target.id.startswith("_")
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    if any(ast.unparse(decorator) == "classmethod" for decorator in node.decorator_list):
        return False  # makes an asyncio client; the blocking ones wrap what the others make
    return node.name in CONTEXT or not node.name.startswith("_")


def _constructor(client: ast.ClassDef) -> str:
    """Returns the constructor: for a client that users make, with the arguments of the asyncio
    one; for the others, around an asyncio client.
    """
    if client.name not in MADE_BY_USERS:
        return (
            f"def __init__(self, client: {client.name}, portal: Portal) -> None:\n    "
            "self._client = client\n    self._portal = portal"
        )
    [init] = [
        node
        for node in client.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    return (
        f"def __init__({ast.unparse(init.args)}) -> None:\n"
        f"    self._client = {client.name}({_call_arguments(init.args)})\n"
        f"    self._portal = portals.shared()"
        + (_AROUND.format(client.name) if client.name in MADE_BY_BOTH else "")
    )


_AROUND = """

@classmethod
def _around(cls, client: {}, portal: Portal) -> Self:
    made = cls.__new__(cls)
    made._client, made._portal = client, portal
    return made"""


def _wrapped(client: str, made: str, portal: str) -> str:
    """Returns the expression that wraps an asyncio client in its blocking one."""
    make = f"{_plain(client)}._around" if client in MADE_BY_BOTH else _plain(client)
    return f"{make}({made}, {portal})"


def _import(client: str) -> str:
    """Returns the statement that imports a blocking client. It is part of the methods that make
    one, so that a program imports only the clients it uses.
    """
    return f"from tinkex.sync.{CLIENTS[client]} import {_plain(client)}\n"


def _property(node: ast.AnnAssign) -> str:
    name, kind = ast.unparse(node.target), ast.unparse(node.annotation)
    body = f"return self._client.{name}"
    if kind in CLIENTS:
        wrapped = _wrapped(kind, f"self._client.{name}", "self._portal")
        body = f"{_import(kind)}return {wrapped}"
    read = f"@property\ndef {name}(self) -> {_plain(kind)}:\n{_indent(body)}"
    write = (
        f"\n\n@{name}.setter\ndef {name}(self, value: {kind}) -> None:\n    self._client.{name} = "
        "value"
    )
    return read + (write if name in SETTABLE else "")


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    returned = ast.unparse(node.returns) if node.returns else ""
    if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return "\n".join(
            [
                f"@property\ndef {node.name}(self) -> {returned}:",
                _indent(_docstring(node)),
                _indent(f"return self._client.{node.name}"),
            ]
        )
    if node.name == "__aenter__":
        return "def __enter__(self) -> Self:\n    return self"
    if _is_static(node):
        return _static_method(node)
    signature = f"def {CONTEXT.get(node.name, node.name)}({_parameters(node.args)})"
    call = ", ".join(filter(None, [f"self._client.{node.name}", _call_arguments(node.args)]))
    if isinstance(node, ast.AsyncFunctionDef) and not returned.startswith("AsyncIterator["):
        body, result = f"self._portal.run({call})", returned
    elif returned.startswith("AsyncAPIFuture["):
        direct = f"self._client.{node.name}({_call_arguments(node.args)})"
        body, result = f"APIFuture(self._portal, lambda: {direct})", returned.removeprefix("Async")
    elif returned.startswith("AsyncIterator["):
        direct = f"self._client.{node.name}({_call_arguments(node.args)})"
        body, result = f"iterate(self._portal, lambda: {direct})", returned.removeprefix("Async")
    elif returned in CLIENTS or returned == "str":
        body, result = f"self._portal.call({call})", returned
    else:
        raise CannotConvert(f"no rule for `def {node.name}(…) -> {returned}`")
    statement = f"return {body}"
    if result in CLIENTS:
        statement = f"{_import(result)}return {_wrapped(result, body, 'self._portal')}"
        result = _plain(result)
    if node.name == "__aexit__":
        statement = body
    elif result == "None":
        statement, result = f"{body}\nreturn DONE", "Done"
    elif result == "str" and isinstance(node, ast.AsyncFunctionDef):
        statement, result = f"return Text({body})", "Text"
    return "\n".join(
        filter(None, [f"{signature} -> {result}:", _indent(_docstring(node)), _indent(statement)])
    )


def _has_twin(node: ast.stmt) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in TWINS


def _twin(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Returns the twin of a call, which does not block the event loop.

    A training call's twin returns the future, any other twin what the call itself returns.
    """
    returned, name, arguments = (
        ast.unparse(node.returns) if node.returns else "",
        node.name,
        _call_arguments(node.args),
    )
    call = f"self.{name}({arguments})"
    result = _plain(returned)
    if isinstance(node, ast.AsyncFunctionDef):
        body = f"await in_thread({', '.join(filter(None, [f'self.{name}', arguments]))})"
        body = body if returned == "None" else f"return {body}"
    elif name in SAMPLING_CALLS:
        body, result = (
            f"return await {call}",
            returned.removeprefix("AsyncAPIFuture[").removesuffix("]"),
        )
    else:
        body = f"return {call}"
    return "\n".join(
        [
            f"async def {name}_async({ast.unparse(node.args)}) -> {result}:",
            f'    """Calls `{name}`. Deprecated: use that instead."""',
            f'    deprecated_twin("{name}")',
            f"    {body}",
        ]
    )


def _is_static(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)


class _WithoutAwait(ast.NodeTransformer):
    """`await x` is x, `Awaitable[X]` is X, and a client is the blocking one."""

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        return node.slice if ast.unparse(node.value) == "Awaitable" else node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return (
            ast.Name(_plain(node.id)) if node.id in CLIENTS or node.id == "AsyncAPIFuture" else node
        )


def _static_method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    made = ast.unparse(node.returns) if node.returns else ""
    docstring, arguments, call = (
        _docstring(node),
        ast.unparse(_WithoutAwait().visit(node.args)),
        _call_arguments(node.args),
    )
    if isinstance(node, ast.AsyncFunctionDef):
        # the first is the docstring
        body = ast.unparse([_WithoutAwait().visit(statement) for statement in node.body[1:]])
    elif made in CLIENTS:
        body = (
            f"{_import(made)}portal = portals.shared()\nreturn "
            f"{_wrapped(made, f'portal.call({made}.{node.name}, {call})', 'portal')}"
        )
    elif made.startswith("AsyncAPIFuture[") and node.name.endswith("_async"):
        client = _plain(made.removeprefix("AsyncAPIFuture[").removesuffix("]"))
        state = f'RequestState("{node.name}")'
        work = f"in_thread({client}.{node.name.removesuffix('_async')}, {call})"
        body = f"return APIFuture(portals.shared(), lambda: AsyncAPIFuture({work}, {state}))"
    else:
        raise CannotConvert(f"no rule for a static `def {node.name}(…) -> {made}`")
    made = made.replace("Async", "")
    return "\n".join(
        [
            "@staticmethod",
            f"def {node.name}({arguments}) -> {made}:",
            _indent(docstring),
            _indent(body),
        ]
    )


def _representation(client: ast.ClassDef) -> str:
    return (
        f'def __repr__(self) -> str:\n    return repr(self._client).replace("{client.name}", '
        f'"{_plain(client.name)}", 1)'
    )


def _pickling(client: ast.ClassDef) -> str:
    """Returns the methods that pickle the asyncio client and, where it is unpickled, wrap it with
    that process's portal.
    """
    return (
        f"def __getstate__(self) -> {client.name}:\n    return self._client\n\n"
        f"def __setstate__(self, state: {client.name}) -> None:\n    self.__init__(state, "
        "portals.shared())"
    )


def _call_arguments(arguments: ast.arguments) -> str:
    if arguments.vararg or arguments.kwarg:
        raise CannotConvert("no rule for * and ** parameters")
    positional = [
        _argument(argument)
        for argument in (*arguments.posonlyargs, *arguments.args)
        if argument.arg != "self"
    ]
    return ", ".join(
        [
            *positional,
            *(f"{argument.arg}={_argument(argument)}" for argument in arguments.kwonlyargs),
        ]
    )


def _argument(argument: ast.arg) -> str:
    return f"{argument.arg}._client" if _takes_client(argument) else argument.arg


def _takes_clients(client: ast.ClassDef) -> bool:
    nodes = (node for member in client.body if _is_public(member) for node in ast.walk(member))
    return any(_takes_client(node) for node in nodes if isinstance(node, ast.arg))


def _takes_client(argument: ast.arg) -> bool:
    return argument.annotation is not None and ast.unparse(argument.annotation) in CLIENTS


def _parameters(arguments: ast.arguments) -> str:
    """Returns the parameters with the blocking clients in place of the asyncio ones."""
    return re.sub(
        rf"\b({'|'.join(CLIENTS)})\b", lambda found: _plain(found[0]), ast.unparse(arguments)
    )


def _docstring(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.get_docstring(node)
    if text is None:
        return ""
    for pattern, replacement in _WORDS:
        text = pattern.sub(replacement, text)
    if left := re.search(r"\b(await|async)(?!_)\w*\b", text, re.I):
        raise CannotConvert(
            f"the docstring of {node.name} still contains {left[0]!r}: rephrase it, or add a rule"
        )
    return f'"""{text}\n"""' if "\n" in text else f'"""{text}"""'


def _plain(name: str) -> str:
    return name.removeprefix("Async")


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
