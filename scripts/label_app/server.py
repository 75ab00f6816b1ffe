"""MONAI Label's HTTP server behind a gate: what a request may say, who may ask, and answers that say what was wrong.

The gate hands on what ``unet_paper.release.label_requests`` knows and nothing else. Of the environment it takes
``LABEL_ALLOWED_HOSTS`` (names by which the server may be called), ``LABEL_TOKEN`` (asked of every request, if set) and
``LABEL_MAX_UPLOAD`` (bytes).
"""

import asyncio
import copy
import hmac
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, UploadFile
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from unet_paper.data.reader import EXTENSIONS
from unet_paper.release import contents, label_requests, monai_label
from unet_paper.running.settings import cause

__all__ = ["app"]

TOKEN = os.environ.get("LABEL_TOKEN", "")
MAX_UPLOAD = int(os.environ.get("LABEL_MAX_UPLOAD", str(2**30)))
MAX_PARAMETERS = 2**20
# After a wrong token, so that guessing takes its time.
WRONG_TOKEN_SECONDS = 1.0
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class TooLarge(ValueError):
    """More bytes than a request may have."""


class Gate:
    """ASGI middleware that hands a request on only if all of it is known, plain and within its limits."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        with tempfile.SpooledTemporaryFile(max_size=2**23) as body:
            try:
                await self._check(scope, receive, body)
            except PermissionError as error:
                await asyncio.sleep(WRONG_TOKEN_SECONDS)
                answer = JSONResponse({"detail": str(error)}, 401, headers={"WWW-Authenticate": "Bearer"})
            except label_requests.UnknownRoute as error:
                answer = JSONResponse({"detail": str(error)}, 404)
            except TooLarge as error:
                answer = JSONResponse({"detail": str(error)}, 413, headers={"Connection": "close"})
            except ValueError as error:
                answer = JSONResponse({"detail": str(error)}, 422)
            else:
                await self.app(scope, _replay(body, receive), send)
                return
            await answer(scope, receive, send)

    async def _check(self, scope: Any, receive: Any, body: Any) -> None:
        request = Request(scope)
        entry = label_requests.route(scope["method"], scope["path"])
        if TOKEN and scope["path"] not in ("/auth/", "/auth", "/auth/token"):
            _authorise(request.headers.get("authorization", ""))
        label_requests.check_query(entry, parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        await _receive(request, receive, body, MAX_UPLOAD if entry.files else MAX_PARAMETERS)
        if body.tell() == 0:
            return
        if entry.body is not None:
            body.seek(0)
            label_requests.check_body(entry, body.read())
            # QuPath names no type, and FastAPI would take its parameters for none
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope["headers"] = [*others, (b"content-type", b"application/json")]
            return
        if not request.headers.get("content-type", "").lower().startswith(_FORMS):
            raise ValueError(f"content-type={request.headers.get('content-type')!a}: expected a form")
        await self._check_form(entry, Request(scope, _replay(body, receive)))

    async def _check_form(self, entry: Any, request: Request) -> None:
        async with request.form(max_files=100, max_fields=100, max_part_size=MAX_PARAMETERS) as form:
            parts = form.multi_items()
            fields = [(name, value) for name, value in parts if isinstance(value, str)]
            files = [(name, value) for name, value in parts if not isinstance(value, str)]
            label_requests.check_form(entry, fields, [(name, file.filename or "") for name, file in files])
            for _, file in files:
                if (file.filename or "").lower().endswith(".zip"):
                    contents.check_images(file.file, file.filename or "", EXTENSIONS)


async def _receive(request: Request, receive: Any, body: Any, most: int) -> None:
    """Copy the body, unless it is too large."""
    announced = request.headers.get("content-length", "0")
    if not announced.isascii() or not announced.isdigit():
        raise ValueError(f"content-length={announced!a}: no number of bytes")
    more = True
    while more:
        if int(announced) > most or body.tell() > most:
            raise TooLarge(f"the request has more than {most} bytes; LABEL_MAX_UPLOAD sets the limit of uploads")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ValueError("the request ended early")
        body.write(message.get("body", b""))
        more = message.get("more_body", False)


def _replay(body: Any, receive: Any) -> Any:
    """What hands the body on a second time."""
    body.seek(0)
    ended = False

    async def again() -> Any:
        nonlocal ended
        if ended:
            return await receive()
        chunk = body.read(2**16)
        ended = not chunk
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    return again


def _authorise(header: str) -> None:
    kind, _, token = header.partition(" ")
    same = hmac.compare_digest(token.strip().encode(), TOKEN.encode())
    if not (same and kind.lower() == "bearer"):
        raise PermissionError("this server asks for its token: Authorization: Bearer TOKEN")


@app.exception_handler(Exception)
async def explain(_request: Request, error: Exception) -> JSONResponse:
    """What the client cannot put right answers 500, as before, but with a reason."""
    inner: Any = cause(error)
    if isinstance(inner, MONAILabelException):
        return JSONResponse({"detail": inner.msg}, status_code=404)
    if isinstance(inner, FileNotFoundError):
        return JSONResponse({"detail": str(inner)}, status_code=404)
    if isinstance(inner, ValueError):
        return JSONResponse({"detail": str(inner)}, status_code=422)
    return JSONResponse({"detail": f"{type(inner).__name__}: {inner}"}, status_code=500)


@app.put("/model/{model}")
def replace_weights(model: str, file: UploadFile) -> dict[str, Any]:
    """In the place of MONAI Label's, which takes any file: new weights, if they fit the network."""
    instance = app_instance()
    task = instance._infers.get(model)
    if task is None or task.network is None:
        raise FileNotFoundError(f"model={model}: no such model")
    target = Path(instance.model_file(model, validate=False))
    with tempfile.TemporaryDirectory() as folder:
        uploaded = Path(folder) / "model.pt"
        with uploaded.open("wb") as copied:
            shutil.copyfileobj(file.file, copied)
        checksum = monai_label.replace_weights(copy.deepcopy(task.network), uploaded, target)
    return {"checksum": f"SHA256:{checksum}", "modified_time": int(target.stat().st_mtime)}


@app.get("/auth/")
def token_is_asked_for() -> dict[str, Any]:
    """As MONAI Label's clients ask: whether they need to log in."""
    return {"enabled": bool(TOKEN), "client_id": "", "realm": ""}


@app.post("/auth/token")
async def log_in(request: Request) -> JSONResponse:
    """For clients with fields for a user and a password: any user, and the token as the password."""
    form = await request.form()
    if TOKEN and hmac.compare_digest(str(form.get("password", "")).encode(), TOKEN.encode()):
        return JSONResponse({"access_token": TOKEN, "token_type": "Bearer"})
    await asyncio.sleep(WRONG_TOKEN_SECONDS)
    return JSONResponse({"detail": "wrong token"}, status_code=401)


@app.get("/auth/token/valid")
def token_is_valid() -> dict[str, Any]:
    """The gate has looked at the token."""
    return {}


# before MONAI Label's own
for _ in range(4):
    app.router.routes.insert(0, app.router.routes.pop())

app.add_middleware(Gate)


@app.middleware("http")
async def refuse_other_sites(request: Request, call_next: Any) -> Any:
    """A page of another site, open in a browser on this machine, could otherwise train, delete and read."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse({"detail": f"origin={origin!a}: requests from other sites are refused"}, status_code=403)
    return await call_next(request)


# Names by which this server may be called: a page that has its own name point here gets no answer.
app.add_middleware(TrustedHostMiddleware, allowed_hosts=os.environ["LABEL_ALLOWED_HOSTS"].split(","))
