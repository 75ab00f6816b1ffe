"""Files from a registry: a folder, or http and https, with limits on size and time, and errors that name the address.

Nothing else is fetched: a registry from elsewhere cannot point into this machine's files, https does not fall back to
http, and pipes and devices are no files. Standard library only.
"""

import contextlib
import http.client
import os
import re
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# Of a whole download; and of any single answer of the server within it.
TOTAL_SECONDS = 1800.0
STALL_SECONDS = 30.0
_MAX_REDIRECTS = 5
_WEB = ("http", "https")
# What urllib strips or a terminal obeys: an address that holds it reads as another one than it is.
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


def base_of(source: str | Path) -> str:
    """URL of the folder that a registry lies in, with a slash at its end.

    Raises:
        ValueError: neither a folder nor a http, https or file URL.

    >>> base_of("HTTP://127.0.0.1:8000/registry")
    'http://127.0.0.1:8000/registry/'
    """
    text = str(source)
    scheme, colon, rest = text.partition("://")
    if not colon:
        return Path(source).resolve().as_uri() + "/"
    if scheme.lower() not in (*_WEB, "file") or _UNPRINTABLE.search(text):
        raise ValueError(f"source={text!a}: must be a folder, or a http, https or file URL without spaces")
    return f"{scheme.lower()}://{rest.rstrip('/')}/"


def address(base: str, source: str) -> str:
    """URL of a file that a registry at ``base`` names, relative or absolute.

    Raises:
        ValueError: a scheme that this registry may not name: a local file, https turned http, or anything else.

    >>> address("https://example.org/registry/", "NAME_v1.0.0.zip")
    'https://example.org/registry/NAME_v1.0.0.zip'
    """
    if _UNPRINTABLE.search(source):
        raise ValueError(f"source={source!a}: the registry names an address that is no plain URL; do not use it")
    try:
        url = urllib.parse.urljoin(base, source)
    except ValueError as error:
        raise ValueError(f"source={source!a}: the registry names an address that is no URL; do not use it") from error
    _check_scheme(urllib.parse.urlsplit(base).scheme, url)
    return url


def fetch(url: str, target: IO[bytes], max_bytes: int, *, seconds: float | None = None) -> None:
    """Copy what lies at a URL.

    Args:
        url: http, https or file.
        target: open file to write to.
        max_bytes: size that it may have.
        seconds: that it may take altogether; None: ``TOTAL_SECONDS``.

    Raises:
        FileNotFoundError: it cannot be reached, or is no regular file.
        TimeoutError: it takes too long.
        ValueError: it is too large, shorter or longer than announced, or redirects to where it may not.
    """
    seconds = TOTAL_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    read = _read_file if url.startswith("file:") else _read_web
    _within(seconds, url, lambda: read(url, target, max_bytes, end))


def open_file(path: str | Path) -> IO[bytes]:
    """Open a regular file; a pipe or a device, on which reading may never end, is refused.

    Raises:
        FileNotFoundError: no such file, or no regular one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise FileNotFoundError(f"{path}: cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(f"{path}: is no regular file")
    return os.fdopen(descriptor, "rb")


def _check_scheme(before: str, url: str) -> None:
    scheme = urllib.parse.urlsplit(url).scheme
    permitted = {"file": ("file",), "https": ("https",), "http": _WEB}.get(before, ())
    if scheme not in permitted:
        what = "a local file" if scheme == "file" else f"an address of another kind ({scheme or 'none'})"
        raise ValueError(f"{url!a}: a registry by {before} names {what}; do not use it")


class Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects within http and https, never from https to http."""

    max_redirections = _MAX_REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The next request, unless it goes where it may not."""
        _check_scheme(urllib.parse.urlsplit(req.full_url).scheme, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow, and close the answer that cannot be followed."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _read_web(url: str, target: IO[bytes], max_bytes: int, end: float) -> None:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        Redirects(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": "unet_paper", "Accept-Encoding": "identity"})
    try:
        answer = opener.open(request, timeout=STALL_SECONDS)
        if answer is None:
            raise ValueError(f"{url!a}: must be a http, https or file URL")
        with contextlib.closing(answer):
            announced = _announced(answer, url)
            size = _copy(answer.read1, target, url, max_bytes, end)
    except urllib.error.URLError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise FileNotFoundError(f"{url!a}: cannot be fetched ({_reason(error)}); check --source") from error
    except (http.client.HTTPException, OSError, UnicodeError) as error:
        if isinstance(error, TimeoutError):
            raise TimeoutError(f"{url!a}: no answer for {STALL_SECONDS:g} s; try again later") from error
        raise FileNotFoundError(
            f"{url!a}: the server's answer is broken off or malformed ({_reason(error)})"
        ) from error
    if announced is not None and size != announced:
        raise ValueError(f"{url!a}: {size} bytes came, {announced} were announced; fetch it again")


def _announced(answer: Any, url: str) -> int | None:
    """Length that the server announces, if it does."""
    if answer.status != 200:
        raise ValueError(f"{url!a}: answer {answer.status}, expected 200; check --source")
    if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise ValueError(f"{url!a}: came with Content-Encoding {encoding!a}, which was not asked for")
    length = answer.headers.get("Content-Length")
    if length is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise ValueError(f"{url!a}: came with Content-Length {length!a}, no number of bytes")
    return int(length)


def _read_file(url: str, target: IO[bytes], max_bytes: int, end: float) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{url!a}: a file on another machine; give a folder, or a http or https URL")
    with open_file(urllib.request.url2pathname(parts.path)) as file:
        _copy(file.read, target, url, max_bytes, end)


def _copy(read: Callable[[int], bytes], target: IO[bytes], url: str, max_bytes: int, end: float) -> int:
    size = 0
    while chunk := read(2**20):
        size += len(chunk)
        if size > max_bytes:
            raise ValueError(f"{url!a}: is larger than {max_bytes} bytes")
        if time.monotonic() > end:
            raise TimeoutError(f"{url!a}: is not complete in time; try again later")
        target.write(chunk)
    return size


def _within(seconds: float, url: str, work: Callable[[], None]) -> None:
    """Do ``work`` in another thread, and leave it there if it takes longer: names, headers and handshakes may hang."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # handed on below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"{url!a}: is not complete after {seconds:g} s; try again later")
    if raised:
        raise raised[0]


def _reason(error: BaseException) -> str:
    return ascii(str(getattr(error, "reason", error)) or type(error).__name__)[1:-1][:200]
