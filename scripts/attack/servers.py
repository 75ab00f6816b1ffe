"""Registries that lie, stall or point elsewhere: folders and servers that answer whatever they like."""

import contextlib
import io
import json
import os
import shutil
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from archives import NAME, VERSION, bundle, publish, zipped
from attacking import Arena, Outcome, Trial, attack, refusal

KEY = f"{NAME}_v{VERSION}"
# An answer as it goes over the wire, or what does the talking.
Answer = bytes | Callable[[socket.socket], None]
HANG_SECONDS = 6.0


@contextlib.contextmanager
def answering(answers: Mapping[str, Answer]) -> Iterator[str]:
    """URL of a server on the loopback that knows these paths, and sends for each what it is told."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = b""
            with contextlib.suppress(OSError):
                while b"\r\n\r\n" not in request and (part := self.request.recv(4096)):
                    request += part
                words = request.split(b" ")
                answer = answers.get(words[1].decode("latin-1") if len(words) > 1 else "", http(404, b"no such file"))
                if callable(answer):
                    answer(self.request)
                else:
                    self.request.sendall(answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads, block_on_close = True, False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def http(status: int, body: bytes = b"", length: int | str | None = None, **headers: str) -> bytes:
    """Answer of HTTP/1.1; ``length`` lies about the body's."""
    lines = [f"HTTP/1.1 {status} Answer", f"Content-Length: {len(body) if length is None else length}"]
    lines += ["Connection: close", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def drip(text: bytes, pause: float = 0.2) -> Callable[[socket.socket], None]:
    """Talks for ever, a few bytes at a time, each well before a timeout of the connection."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(text)
        for _ in range(int(60 / pause)):
            time.sleep(pause)
            connection.sendall(b" ")

    return talk


def silence(connection: socket.socket) -> None:
    """Never says anything."""
    with contextlib.suppress(OSError):
        connection.settimeout(60)
        connection.recv(1)


def infos() -> Iterator[tuple[str, bytes]]:
    """What is wrong with a ``model_info.json``, and its content."""
    good = {"checksum": "0" * 40, "source": "a.zip"}
    yield "truncated", json.dumps({KEY: good}).encode()[:-5]
    yield "empty", b""
    yield "HTML", b"<!doctype html><title>Sign in</title>"
    yield "not UTF-8", b'{"\xff": 1}'
    yield "UTF-16", json.dumps({KEY: good}).encode("utf-16")
    yield "huge", b'{"a": "' + b"x" * (8 * 2**20) + b'"}'
    yield "deep", b"[" * 200_000
    yield "a number of many digits", b'{"a": ' + b"9" * 10_000 + b"}"
    for value in ([], "text", 3, None, True, [[KEY, good]]):
        yield f"of another type, {json.dumps(value)[:12]}", json.dumps(value).encode()
    for value in (None, [], "a.zip", 3, {}):
        yield f"an entry of another type, {json.dumps(value)}", json.dumps({KEY: value}).encode()
    for key, value in (
        ("source", None),
        ("source", 3),
        ("source", ["a.zip"]),
        ("source", ""),
        ("source", "\x1b[2J.zip"),
        ("source", "a\r\nX: b"),
        ("source", "http://[::1"),
        ("source", "http://127.0.0.1:99999/a"),
        ("source", "http://a..b/c"),
        ("source", "http://" + "a" * 300 + "/c"),
        ("checksum", None),
        ("checksum", 3),
        ("checksum", [1]),
        ("checksum", ""),
        ("checksum", "../x"),
        ("sha256", 3),
        ("sha256", "0"),
    ):
        yield f"{key} = {value!r:.30}", json.dumps({KEY: {**good, key: value}}).encode()
    yield "an entry twice", json.dumps({KEY: good})[:-1].encode() + b", " + json.dumps({KEY: good})[1:].encode()
    yield "a version of many digits", json.dumps({f"{NAME}_v{'9' * 5000}.0.0": good}).encode()
    yield "a version in other digits", json.dumps({f"{NAME}_v\u0661.0.0": good}).encode()
    yield "no such bundle, and escape codes", json.dumps({"\x1b]0;owned\x07_v1.0.0": good}).encode()


def answers() -> Iterator[tuple[str, Answer]]:
    """What is wrong with how a server answers, whatever it is asked for."""
    body = json.dumps({KEY: {"checksum": "0" * 40, "source": "a.zip"}}).encode()
    yield "less than it announced", http(200, body, length=len(body) + 100)
    yield (
        "less than it announced, in chunks",
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(body) + 9) + body),
    )
    yield "chunks without length", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + body
    yield "a length that is none", http(200, body, length="many")
    yield "a negative length", http(200, body, length=-1)
    yield "no status", b"\r\n\r\n"
    yield "another protocol", b"SSH-2.0-OpenSSH_9.0\r\n"
    yield "a status that is none", b"HTTP/1.1 abc\r\n\r\n"
    yield "a header without end", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000
    yield "headers without end", b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000 + b"\r\n"
    yield "nothing", b""
    for status in (204, 206, 401, 403, 404, 410, 429, 500, 503):
        yield f"status {status}", http(status, body)
    yield "compressed", http(200, body, Content_Encoding="gzip")
    yield "a redirect to itself", http(302, Location="/model_info.json")
    yield "a redirect without address", http(302)
    for address in (
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        " file:///etc/passwd",
        "ftp://127.0.0.1:9/a",
        "FTP://127.0.0.1:9/a",
        "data:text/plain,a",
        "gopher://127.0.0.1/",
        "javascript:1",
        "http://[::1",
    ):
        yield f"a redirect to {address}", http(302, Location=address)
    yield "silence", silence
    yield "a header, byte by byte", drip(b"HTTP/1.1 200 OK\r\nX: ")
    yield "a body, byte by byte", drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    yield "a body without end", drip(b"HTTP/1.1 200 OK\r\n\r\n{")


def sources(folder: Path) -> Iterator[tuple[str, str]]:
    """Addresses that a served registry may not name; a good archive lies at the local ones."""
    local = (folder / f"{KEY}.zip").as_uri()
    yield "a local file", local
    yield "a local file, upper case", local.replace("file:", "FILE:")
    yield "a local file, mixed case", local.replace("file:", "fIlE:")
    for what, character in (("space", " "), ("tab", "\t"), ("line break", "\n"), ("null", "\0"), ("nbsp", "\u00a0")):
        yield f"a local file after a {what}", character + local
    yield "a local file with a tab within", local.replace("file", "fi\tle")
    yield "a local file, marked as URL", "url:" + local
    yield "a local file in brackets", f"<URL:{local}>"
    yield "ftp", "ftp://127.0.0.1:9/a.zip"
    yield "data", "data:application/zip;base64,UEs="
    yield "an address without scheme", "nowhere:"


@attack("hostile registries", short=True)
def hostile_registries(arena: Arena) -> Iterator[Trial]:
    """Each is asked for a bundle that it cannot give."""
    registry = arena.module("release.registry", "registry")
    bundles, good = arena.folder / "bundles", arena.folder / "good"
    bundles.mkdir()
    archive = publish(good, zipped(bundle()))
    with contextlib.suppress(ModuleNotFoundError):
        arena.module("release.download").TOTAL_SECONDS = 2.0

    def installing(source: str | Path, what: str) -> Trial:
        trial = refusal(what, lambda: registry.install(NAME, source, bundles), bundles, seconds=HANG_SECONDS)
        for left in bundles.iterdir():
            shutil.rmtree(left)
        return trial

    info = (good / "model_info.json").read_bytes()
    honest: dict[str, Answer] = {
        "/model_info.json": http(200, info),
        f"/{archive.name}": http(200, archive.read_bytes()),
    }
    yield _survives("an honest server", registry, honest, bundles)
    moved = {**honest, "/model_info.json": http(302, Location="/moved"), "/moved": http(200, info)}
    yield _survives("a redirect within the server", registry, moved, bundles)

    for what, content in infos():
        with answering({"/model_info.json": http(200, content)}) as url:
            yield installing(url, f"registry: {what}")
    for what, answer in answers():
        if arena.short and callable(answer) and what != "a body, byte by byte":
            continue
        with answering({"/model_info.json": answer}) as url:
            yield installing(url, f"registry's server: {what}")
        if not callable(answer) or not arena.short:
            with answering({"/model_info.json": http(200, info), f"/{archive.name}": answer}) as url:
                yield installing(url, f"archive's server: {what}")
    entry = json.loads(info)[KEY]
    for what, source in sources(good):
        with answering({"/model_info.json": http(200, json.dumps({KEY: {**entry, "source": source}}).encode())}) as url:
            yield installing(url, f"archive at {what}")
    yield from _folders(arena, good, installing)
    yield from _schemes(arena)
    for name in ("../escaped", "/tmp/escaped", "", ".", "a/b", "a\0b", "\x1b[2J"):
        yield refusal(f"name {name!r}", lambda name=name: registry.install(name, good, bundles), arena.folder)


def _survives(what: str, registry: ModuleType, served: Mapping[str, Answer], bundles: Path) -> Trial:
    try:
        with answering(served) as url:
            folder = registry.install(NAME, url, bundles)
    except Exception as error:
        return Trial(what, Outcome.LOST, f"{type(error).__name__}: {error}")
    shutil.rmtree(folder)
    return Trial(what, Outcome.SURVIVED)


def _folders(arena: Arena, good: Path, installing: Callable[[str | Path, str], Trial]) -> Iterator[Trial]:
    """Registries in folders of this machine."""
    for what, name in (("its list", "model_info.json"), ("its archive", f"{KEY}.zip")):
        for kind in ("pipe", "device", "folder", "missing", "link to a device"):
            folder = arena.folder / f"{kind} {name}"
            shutil.copytree(good, folder)
            (folder / name).unlink()
            if kind == "pipe":
                os.mkfifo(folder / name)
            elif kind == "folder":
                (folder / name).mkdir()
            elif kind == "link to a device":
                (folder / name).symlink_to("/dev/zero")
            elif kind == "device":
                entry = {KEY: {**json.loads((good / "model_info.json").read_text())[KEY], "source": "file:///dev/zero"}}
                if name == "model_info.json":
                    continue
                (folder / "model_info.json").write_text(json.dumps(entry))
            yield installing(folder, f"{kind} in place of {what}")
    for what in ("ftp://127.0.0.1:9/", "data:text/plain,a", "FILE://elsewhere/a", "http://127.0.0.1:9/\x1b[2J"):
        yield installing(what, f"registry at {what!r}")


def _schemes(arena: Arena) -> Iterator[Trial]:
    """From https to http: tried without a certificate, on what decides about redirects and addresses."""
    try:
        download: Any = arena.module("release.download")
    except ModuleNotFoundError:
        yield Trial("a redirect from https to http", Outcome.LOST, "nothing in the package decides about it")
        return
    base = "https://127.0.0.1/registry/"
    yield refusal("an archive by http of a registry by https", lambda: download.address(base, "http://127.0.0.1/a.zip"))
    import urllib.request

    request = urllib.request.Request(base)
    follow = download.Redirects().redirect_request
    yield refusal(
        "a redirect from https to http",
        lambda: follow(request, io.BytesIO(), 302, "Found", {}, "http://127.0.0.1/a.zip"),
    )
