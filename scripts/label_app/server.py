"""MONAI Label's HTTP server, with answers that say what was wrong, and deaf to web pages of other sites."""

import os
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.exception import MONAILabelException

from unet_paper.running.settings import cause

__all__ = ["app"]

# Names by which this server may be called: a page that has its own name point here gets no answer.
app.add_middleware(TrustedHostMiddleware, allowed_hosts=os.environ["LABEL_ALLOWED_HOSTS"].split(","))


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


@app.middleware("http")
async def refuse_other_sites(request: Request, call_next: Any) -> Any:
    """A page of another site, open in a browser on this machine, could otherwise train, delete and read."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse({"detail": f"origin={origin}: requests from other sites are refused"}, status_code=403)
    return await call_next(request)
