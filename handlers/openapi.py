"""/openapi.json, generated from the routes, their `@operation`s and the marshmallow schemas; /docs shows it with Swagger UI."""

import functools
import inspect
import mimetypes
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import resolve_schema_cls
from marshmallow import Schema

from app.kernel.errors import HallError, NotFound
from handlers.base import HallHandler, Operation, operation

_GROUP = re.compile(r"\((?:[^()]|\([^()]*\))*\)")
_TITLE = "Shaoguan Mobile Service Hall (韶关掌上办事大厅)"
_PAGES = ("/v1", "/mp/", "/staff/v1", "/callbacks", "/open/v1", "/healthz", "/readyz", "/metrics", "/openapi.json")


def build(routes: list[tuple[Any, ...]], public_url: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a route list; pages (HTML) are left out."""
    spec = APISpec(
        title=_TITLE,
        version="1",
        openapi_version="3.1.0",
        plugins=[MarshmallowPlugin(schema_name_resolver=_schema_name)],
        servers=[{"url": public_url}],
    )
    spec.components.security_scheme("resident", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.security_scheme("staff", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.schema("Problem", _PROBLEM)
    for pattern, handler, *_rest in routes:
        if not pattern.startswith(_PAGES):
            continue
        operations = {}
        for method in ("get", "post", "put", "patch", "delete"):
            declared: Operation | None = getattr(getattr(handler, method), "operation", None)
            if declared is not None:
                operations[method] = _operation(handler, method, declared, pattern)
        if operations:
            spec.path(path=_path(handler, pattern), operations=operations)
    return spec.to_dict()  # type: ignore[no-any-return]


_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem+json; `code` is stable, `detail` is for the person.",
    "required": ["type", "title", "status", "detail", "code", "request_id", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def _schema_name(schema: Any) -> str:
    cls = resolve_schema_cls(schema)
    # Two rooms may call a schema the same; the module tells them apart.
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" if inspect.isclass(cls) else str(cls)


def _parameters_of(handler: type[HallHandler], pattern: str) -> list[str]:
    count = len(_GROUP.findall(pattern))
    for method in ("get", "post", "put", "patch", "delete"):
        function = getattr(handler, method)
        if hasattr(function, "operation"):
            names = [name.lstrip("_") for name in list(inspect.signature(function).parameters)[1:]]
            if len(names) >= count:
                return names[:count]
    return [f"p{number}" for number in range(count)]


def _path(handler: type[HallHandler], pattern: str) -> str:
    names = iter(_parameters_of(handler, pattern))
    return _GROUP.sub(lambda _match: "{" + next(names) + "}", pattern).replace("\\", "").rstrip("?")


def _operation(handler: type[HallHandler], method: str, declared: Operation, pattern: str) -> dict[str, Any]:
    parameters: list[Any] = [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        for name in _parameters_of(handler, pattern)
    ]
    if declared.query is not None:
        parameters.append({"in": "query", "schema": declared.query})
    if declared.idempotent:
        parameters.append(
            {
                "in": "header",
                "name": "Idempotency-Key",
                "required": True,
                "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[!-~]+$"},
            }
        )
    document: dict[str, Any] = {
        "summary": declared.summary,
        "operationId": f"{handler.__module__.rpartition('.')[2]}.{handler.__name__}.{method}",
        "tags": [handler.__module__.rpartition(".")[2]],
        "parameters": parameters,
        "responses": {str(status): _answer(schema) for status, schema in declared.answers.items()},
    }
    document["responses"]["default"] = {
        "description": "a problem",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if inspect.getdoc(handler) != inspect.getdoc(HallHandler) and handler.__doc__:
        document["description"] = inspect.getdoc(handler)
    if declared.auth:
        document["security"] = [{declared.auth: []}]
    by_action: dict[str, type[Schema]] = getattr(handler, "bodies_by_action", {})
    if by_action:  # one path parameter chooses the body
        for parameter in parameters:
            if parameter.get("name") == "action":
                parameter["schema"] = {"type": "string", "enum": list(by_action)}
        schemas = list(dict.fromkeys(by_action.values()))
        document["requestBody"] = {"content": {"application/json": {"schema": {"anyOf": schemas}}}}
    if declared.body is not None:
        document["requestBody"] = {
            "required": not declared.body_optional,
            "content": {"application/json": {"schema": declared.body}},
        }
    return document


def _answer(schema: type[Schema] | None) -> dict[str, Any]:
    if schema is None:
        return {"description": "done"}
    return {"description": "the answer", "content": {"application/json": {"schema": schema}}}


class OpenApi(HallHandler):
    @operation("This description")
    async def get(self) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(_document(self.application))


@functools.cache
def _document(application: Any) -> bytes:
    return orjson.dumps(build(application.hall_routes, application.hall.settings.public_url))


_STATIC = Path(str(files("swagger_ui"))) / "static"
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/docs/swagger-ui.css"></head><body>
<div id="swagger-ui"></div><script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>"""
_START = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", validatorUrl: null, deepLinking: true});"""


class Docs(HallHandler):
    """GET /docs: Swagger UI from its package; nothing is fetched from elsewhere."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header(
            "Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
        )
        self.finish(_PAGE)


class Errors(HallHandler):
    """GET /docs/errors: what each `type` of a problem leads to, made from the error classes themselves."""

    async def get(self) -> None:
        rows = "".join(
            f'<tr id="{escape(code)}"><td><code>{escape(code)}</code></td><td>{status}</td><td>{escape(title)}</td><td>{escape(text)}</td></tr>'
            for code, status, title, text in _error_rows()
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(_ERRORS_PAGE.replace("ROWS", rows))


def _error_rows() -> list[tuple[str, int, str, str]]:
    found: dict[str, tuple[str, int, str, str]] = {}
    waiting: list[type[HallError]] = [HallError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        text = (error.__doc__ or "").strip().partition("\n\n")[0]
        found.setdefault(error.code, (error.code, error.status, error.title, " ".join(text.split())))
    return [found[code] for code in sorted(found)]


_ERRORS_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Errors</title>
<meta name="viewport" content="width=device-width"></head><body><h1>Errors</h1>
<p>Every failure is <code>application/problem+json</code> (RFC 9457). Branch on <code>code</code>, show <code>detail</code>.</p>
<table><tr><th>code</th><th>status</th><th>title</th><th>meaning</th></tr>ROWS</table></body></html>"""


class DocsFile(HallHandler):
    async def get(self, name: str) -> None:
        if name == "start.js":
            self.set_header("Content-Type", "text/javascript; charset=utf-8")
            self.finish(_START)
            return
        path = _STATIC / name
        if path.parent != _STATIC or not path.is_file():
            raise NotFound("没有这个文件。", en="No such file.")
        self.set_header("Content-Type", mimetypes.guess_type(name)[0] or "application/octet-stream")
        self.set_header("Cache-Control", "public, max-age=86400")
        self.finish(path.read_bytes())


routes = [(r"/openapi.json", OpenApi), (r"/docs/?", Docs), (r"/docs/errors", Errors), (r"/docs/([\w.-]+)", DocsFile)]
