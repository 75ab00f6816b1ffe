"""Requests to MONAI Label's server that run code, write or read where they may not, or break it for others."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archives import hostile_pickle, weights
from attacking import Arena, NotHere, Outcome, Trial, attack

NAME = "unet_em_segmentation"
START_SECONDS = 420
ANSWER_SECONDS = 60
REQUESTS_SECONDS = 600

# Starts the launcher of a checkout with an environment that is there already.
LAUNCH = """
import importlib.util, sys
from pathlib import Path
launcher, environment, *words = sys.argv[1:]
spec = importlib.util.spec_from_file_location("launcher", launcher)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.ENVIRONMENT = Path(environment)
module.set_up_environment = lambda: None
sys.argv = [launcher, *words]
module.main()
"""


@dataclass(frozen=True)
class Request:
    """One request: what is wrong with it, and what goes over the wire."""

    what: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    body: Any = None
    harmless: bool = False  # may be taken, if nothing is written outside of the store


def code(mark: Path) -> str:
    """Text that makes a file where MONAI's parser evaluates it."""
    return f"$__import__('pathlib').Path({str(mark)!r}).touch()"


def requests(mark: Path, escape: str, image: bytes) -> Iterator[Request]:
    """Hostile requests; ``mark`` is made by code that runs, and files that get out are called ``escape``."""
    infer, train, batch = f"/infer/{NAME}", f"/train/{NAME}", f"/batch/infer/{NAME}"
    evil = code(mark)
    shown = {"image": "phantom_0"}
    values = (
        evil,
        f" {evil}",
        [evil],
        {"a": evil},
        {"_target_": "os.system", "command": f"touch {mark}"},
        "@network",
        "%x",
    )
    for name in (
        "cell_ids",
        "device",
        "model_filename",
        "result_extension",
        "label_tag",
        "logging",
        "unknown",
        "_target_",
    ):
        for value in values:
            yield Request(f"infer, {name} = {value!r:.40}", "POST", infer, shown, {"params": json.dumps({name: value})})
    for name in ("max_epochs", "device", "run_id", "pretrained", "val_split", "gpus", "tracking_uri", "name", evil):
        for value in values:
            yield Request(f"train, {name:.20} = {value!r:.40}", "POST", train, {"run_sync": "true"}, body={name: value})
    for name in ("cell_ids", "device", "images", "label_tag", "max_workers"):
        for value in values[:4]:
            yield Request(f"batch, {name} = {value!r:.40}", "POST", batch, {"run_sync": "true"}, body={name: value})
    for name in ("max_samples", "device", "simulation_size"):
        yield Request(f"scoring, {name}", "POST", "/scoring/epistemic", {"run_sync": "true"}, body={name: evil})
    yield Request("train, nested", "POST", "/train/", body={NAME: {"max_epochs": evil}})
    yield Request("sample", "POST", "/activelearning/random", body={"strategy": evil})
    for name, value in (
        ("cell_ids", "yes"),
        ("cell_ids", 1),
        ("device", "/dev/null"),
        ("device", ""),
        ("result_dtype", "object"),
        ("result_dtype", "complex64"),
        ("result_extension", "/../../x.tif"),
        ("result_extension", ".py"),
        ("model_filename", "../../../x.pt"),
        ("model_filename", "/etc/passwd"),
        ("model_filename", "other.pt"),
        ("logging", "LOUD"),
        ("timeout", -1),
        ("image", "/etc/passwd"),
        ("image", str(Path.home())),
        ("label", "/etc/passwd"),
        ("session", {"image": "/etc/passwd"}),
        ("result_write_to_file", False),
        ("skip_writer", True),
    ):
        yield Request(f"infer, {name} = {value!r}", "POST", infer, shown, {"params": json.dumps({name: value})})
    for name, value in (
        ("max_epochs", -1),
        ("max_epochs", 10**9),
        ("max_epochs", 1.5),
        ("max_epochs", True),
        ("max_epochs", "3"),
        ("val_split", 2),
        ("val_split", "0.2"),
        ("gpus", "0;touch x"),
        ("run_id", "initialize"),
        ("tracking_uri", "http://127.0.0.1:9/"),
    ):
        yield Request(f"train, {name} = {value!r}", "POST", train, {"run_sync": "true"}, body={name: value})
    for text in ("", "{", "[]", '"a"', "null", "NaN", '{"a": 1, "a": 2}', "[" * 5000, '{"timeout": 1e999}'):
        if text not in ("", "null"):
            yield Request(f"infer, params {text[:20]}", "POST", infer, shown, {"params": text})
    for path in (f"/{escape}", f"../{escape}", f"a/../../{escape}", f"..\\{escape}", f"/tmp/{escape}", "\x1b[2J", ".."):
        files = {"file": ("a.png", image)}
        yield Request(f"image into {path!r}", "PUT", "/datastore/image", {"image": path}, files=files)
        yield Request(
            f"image of name {path!r}", "PUT", "/datastore/image", files={"file": (f"{path}.png", image)}, harmless=True
        )
        label = {"label": ("a.png", image)}
        yield Request(f"label, tag {path!r}", "PUT", "/datastore/label", {**shown, "tag": path}, files=label)
        yield Request(f"label of {path!r}", "PUT", "/datastore/label", {"image": path}, files=label)
        yield Request(f"label, removed {path!r}", "DELETE", "/datastore/label", {"id": path, "tag": path})
        yield Request(f"image, removed {path!r}", "DELETE", "/datastore/image", {"id": path})
        yield Request(f"infer {path!r}", "POST", infer, {"image": path})
        yield Request(f"infer with session {path!r}", "POST", infer, {"session_id": path})
        yield Request(f"session {path!r}", "GET", f"/session/{urllib.parse.quote(path, safe='')}")
        yield Request(f"session, removed {path!r}", "DELETE", f"/session/{urllib.parse.quote(path, safe='')}")
        yield Request(
            f"session, file {path!r}", "PUT", "/session/", files={"files": (path + ".png", image)}, harmless=True
        )
        yield Request(
            f"model {path!r}", "PUT", f"/model/{urllib.parse.quote(path, safe='')}", files={"file": ("a.pt", b"")}
        )
    for name in ("/etc/passwd", str(Path.home()), "app", "server.log", "labels"):
        yield Request(f"infer on {name}", "POST", infer, {"image": name})
        yield Request(f"outlines of {name}", "POST", f"/infer/wsi/{NAME}", {"image": name, "output": "json"}, body={})
    for kind, data in _session_archives(escape):
        yield Request(f"session, {kind}", "PUT", "/session/", {"uncompress": "true"}, files={"files": data})
    for kind, content in (("text", b"no image"), ("program", b"\x7fELF"), ("nothing", b"")):
        for name in ("a.png", "a.tif", "a.nii.gz", "a.nrrd", "a.seg.nrrd", "a.xml", "a.py", "a.svs", "a.json", "a"):
            file = {"label": (name, content)}
            yield Request(f"label of {kind}, {name}", "PUT", "/datastore/label", shown, files=file)
            file = {"file": (name, content)}
            yield Request(f"image of {kind}, {name}", "PUT", "/datastore/image", {"image": "new"}, files=file)
    yield Request("label, burst of entities", "PUT", "/datastore/label", shown, files={"label": ("a.xml", _burst())})
    yield Request("label, file of the server", "PUT", "/datastore/label", shown, files={"label": ("a.xml", _entity())})
    detached = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 8 8\nencoding: raw\ndata file: /etc/passwd\n\n"
    yield Request("label, pixels elsewhere", "PUT", "/datastore/label", shown, files={"label": ("a.nrrd", detached)})
    for info in ({"a": evil}, {"_target_": "os.system"}, {"a": [{"b": evil}]}):
        text = {"info": json.dumps(info)}
        yield Request(f"image info {info!r:.30}", "PUT", "/datastore/image/info", shown, text)
        text = {"params": json.dumps(info)}
        yield Request(
            f"label info {info!r:.30}",
            "PUT",
            "/datastore/updatelabelinfo",
            {"label": "phantom_0", "tag": "original"},
            text,
        )
    for what, content in (
        ("junk", b"junk"),
        ("a pickle with code", hostile_pickle()),
        ("weights of another network", weights()),
        ("nothing", b""),
        ("a list", weights([1, 2])),
    ):
        yield Request(f"weights, {what}", "PUT", f"/model/{NAME}", files={"file": ("model.pt", content)})
    yield Request("weights, removed", "DELETE", f"/model/{NAME}")
    yield Request("weights of another model", "PUT", "/model/other", files={"file": ("model.pt", weights())})
    for path in (
        "/proxy/dicom/wado/x",
        "/proxy/dicom/%2e%2e/x",
        "/reload",
        "/ohif/../../etc/passwd",
        "/static/../app.py",
    ):
        yield Request(f"address {path}", "POST" if path == "/reload" else "GET", path)
    yield Request("a parameter twice", "GET", "/datastore/image?image=phantom_0&image=phantom_1")
    yield Request("an unknown parameter", "GET", "/datastore/", {"a": "b"})


def _session_archives(escape: str) -> Iterator[tuple[str, tuple[str, bytes]]]:
    for member in (f"../{escape}", f"/tmp/{escape}", f"a/../../../{escape}", "a.py"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr(member, b"x")
        yield f"zip with {member}", ("a.zip", buffer.getvalue())
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            entry = tarfile.TarInfo(member)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
        yield f"tar with {member}", ("a.tar.gz", buffer.getvalue())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("a.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    yield "tar with a link", ("a.tar", buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(2**25))
    yield "zip that bursts", ("a.zip", buffer.getvalue())
    yield "zip of text", ("a.zip", b"no zip")


def _burst() -> bytes:
    """Entities that hold ten of the one before, each: a few hundred bytes that become terabytes."""
    entities = "<!ENTITY e0 'x'>" + "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 13))
    return f"<?xml version='1.0'?><!DOCTYPE x [{entities}]><ASAP_Annotations>&e12;</ASAP_Annotations>".encode()


def _entity() -> bytes:
    return b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><ASAP_Annotations>&e;</ASAP_Annotations>"


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    folder: Path
    studies: Path
    process: "subprocess.Popen[bytes]"

    def send(self, request: Request, **headers: str) -> tuple[int, bytes]:
        """Status and content of its answer; 0 for none."""
        query = f"?{urllib.parse.urlencode(request.query)}" if request.query else ""
        data = None
        if request.form or request.files:
            data, kind = _multipart(request)
            headers["Content-Type"] = kind
        elif request.body is not None:
            data = json.dumps(request.body).encode()
            headers["Content-Type"] = "application/json"
        try:
            sent = urllib.request.Request(self.url + request.path + query, data, headers, method=request.method)
            with urllib.request.urlopen(sent, timeout=ANSWER_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (OSError, ValueError) as error:
            return 0, str(error).encode()


def _multipart(request: Request) -> tuple[bytes, str]:
    mark = b"----attack7d8f"
    parts = []
    for name, text in request.form.items():
        parts.append(b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name.encode(), text.encode()))
    for name, (filename, content) in request.files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'.encode()
        parts.append(head + b"\r\nContent-Type: application/octet-stream\r\n\r\n" + content)
    body = b"".join(b"--" + mark + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + mark + b"--\r\n"
    return body, f"multipart/form-data; boundary={mark.decode()}"


@contextlib.contextmanager
def serving(arena: Arena, *words: str) -> Iterator[Server]:
    """The server of the checkout under attack, on the phantom.

    Raises:
        NotHere: the environment of MONAI Label has not been set up.
    """
    here = Path(__file__).resolve().parent.parent.parent
    environment = next(
        (root / ".label-venv" for root in (arena.package, here) if (root / ".label-venv" / "ready").is_file()), None
    )
    if environment is None:
        raise NotHere("MONAI Label is not installed here; `make label` sets it up")
    launcher = next(
        path
        for name in ("label_app/start.py", "monai_label.py")
        if (path := arena.package / "scripts" / name).is_file()
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder, log = arena.folder / "server", arena.folder / "launcher.log"
    command = [
        sys.executable,
        "-c",
        LAUNCH,
        str(launcher),
        str(environment),
        "--port",
        str(port),
        "--folder",
        str(folder),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *words],
            cwd=arena.folder,
            env=arena.environment(PYTHONPATH=os.pathsep.join([str(arena.package), str(launcher.parent)])),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while "MONAI Label serves" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {log.read_text()[-500:]}")
            time.sleep(0.5)
        yield Server(f"http://127.0.0.1:{port}", folder, folder / "phantom" / "em", process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for group in (process.pid, *(int(file.read_text()) for file in [folder / "server.pid"] if file.is_file())):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@attack("requests to MONAI Label", short=False)
def label_server(arena: Arena) -> Iterator[Trial]:
    """Every one must answer 4xx, change nothing, and leave a server that goes on."""
    mark, escape = arena.folder / "mark", f"escaped-{os.getpid()}.txt"
    with serving(arena) as server:
        bundle = server.folder / "app" / "model" / NAME
        image = (server.studies / "phantom_0.png").read_bytes()
        yield from _survivors(server, "before")
        watched = {"weights": bundle / "models" / "model.pt"}
        end = time.monotonic() + REQUESTS_SECONDS
        for request in requests(mark, escape, image):
            if time.monotonic() > end:
                print(f"requests: stopped after {REQUESTS_SECONDS} s", file=sys.stderr)
                break
            before = _state(server, watched)
            status, content = server.send(request)
            trial = Trial(request.what, Outcome.REFUSED, f"{status}")
            if mark.exists():
                mark.unlink()
                trial = Trial(request.what, Outcome.LOST, "its code ran")
            elif found := _escaped(arena, escape):
                trial = Trial(request.what, Outcome.LOST, f"wrote {found.name} outside of its folder")
                found.unlink()
            elif request.harmless and status == 200:
                trial = Trial(request.what, Outcome.SURVIVED)
            elif _state(server, watched) != before:
                trial = Trial(request.what, Outcome.LOST, f"changed the store or the weights, status {status}")
            elif not 400 <= status < 500:
                trial = Trial(request.what, Outcome.LOST, f"status {status}: {content[:100]!r}")
            yield trial
            if server.process.poll() is not None:
                yield Trial("the server", Outcome.LOST, f"died of: {request.what}")
                return
        yield from _survivors(server, "after")
    if not arena.short:
        yield from _with_token(arena)


def _survivors(server: Server, when: str) -> Iterator[Trial]:
    """What people do with it works."""
    shown = {"image": "phantom_0", "output": "image"}
    for request in (
        Request("says what it can do", "GET", "/info/"),
        Request("an image", "GET", "/datastore/image", {"image": "phantom_0"}),
        Request("inference", "POST", f"/infer/{NAME}", shown, {"params": '{"device": "cpu"}'}),
    ):
        status, content = server.send(request)
        outcome = Outcome.SURVIVED if status == 200 else Outcome.LOST
        yield Trial(f"{request.what}, {when}", outcome, f"status {status}: {content[:200]!r}")


def _with_token(arena: Arena) -> Iterator[Trial]:
    """A server that asks for a token: nothing without it."""
    token = arena.folder / "token"
    token.write_text("a-token-of-many-letters\n")
    with serving(arena, "--token_file", str(token), "--max_upload", "100000") as server:
        ask = Request("info", "GET", "/info/")
        for what, header in (
            ("no token", None),
            ("an empty one", "Bearer "),
            ("a wrong one", "Bearer a-token-of-many-letterz"),
            ("the beginning of it", "Bearer a-token"),
            ("another kind", "Basic a-token-of-many-letters"),
            ("none but a name", "Bearer"),
        ):
            status, _ = server.send(ask, **({} if header is None else {"Authorization": header}))
            yield Trial(what, Outcome.REFUSED if status == 401 else Outcome.LOST, f"status {status}")
        status, _ = server.send(ask, Authorization="Bearer a-token-of-many-letters")
        yield Trial("the token", Outcome.SURVIVED if status == 200 else Outcome.LOST, f"status {status}")
        large = Request("large", "PUT", "/datastore/image", {"image": "a"}, files={"file": ("a.png", bytes(200_000))})
        status, _ = server.send(large, Authorization="Bearer a-token-of-many-letters")
        yield Trial("an upload over the limit", Outcome.REFUSED if status in (413, 0) else Outcome.LOST, f"{status}")


def _state(server: Server, watched: Mapping[str, Path]) -> Any:
    """Files of the store and the weights; the index of the store changes when images are drawn or scored."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in [*server.studies.rglob("*"), *watched.values()]
        if path.is_file() and path.name not in ("datastore_v2.json", ".lock")
    }


def _escaped(arena: Arena, escape: str) -> Path | None:
    places = [Path("/"), Path("/tmp"), Path.home(), arena.folder, arena.folder.parent]
    found = [place / escape for place in places] + [
        place / f"{escape}{kind}" for place in places for kind in (".png", "")
    ]
    found += [
        path for path in arena.folder.rglob(f"{escape}*") if not {"studies", "phantom", "sessions"} & set(path.parts)
    ]
    return next((path for path in found if path.exists() and path.is_file()), None)
