"""What a request to MONAI Label's server may say: every route, every parameter with its type and range, plain names.

MONAI Label hands parameters on to MONAI's config parser, where a string that begins with ``$`` is code, and joins ids
and tags to folders. So a request is checked before MONAI Label sees it, and what stands in none of the tables is
refused. The tables hold what MONAI Label's clients for Python, 3D Slicer, QuPath and CVAT send.
"""

import dataclasses
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from unet_paper.data.reader import EXTENSIONS

# MONAI's config parser takes these for code, a reference and another file.
_CODE = ("$", "@", "%")
_MAX_DEPTH = 12
_MAX_TEXT = 100_000
_MAX_NAME = 200
# Formats of a label that a request may ask for or send, besides those of images: QuPath's XML.
LABEL_EXTENSIONS = (*EXTENSIONS, ".xml")


class UnknownRoute(LookupError):
    """No client has a use for this address."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """Type and range of a parameter.

    Args:
        fits: whether a value is one.
        says: what it must be, for errors.
    """

    fits: Callable[[Any], bool]
    says: str


def _integer(low: int, high: int) -> Parameter:
    return Parameter(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"a whole number from {low} to {high}",
    )


def _number(low: float, high: float, *others: float) -> Parameter:
    return Parameter(
        lambda value: (
            isinstance(value, int | float) and not isinstance(value, bool) and (low <= value <= high or value in others)
        ),
        f"a number from {low} to {high}" + "".join(f", or {other}" for other in others),
    )


def _one_of(*values: str) -> Parameter:
    return Parameter(lambda value: isinstance(value, str) and value in values, f"one of {', '.join(map(repr, values))}")


def _text(pattern: str, says: str) -> Parameter:
    return Parameter(lambda value: isinstance(value, str) and bool(re.fullmatch(pattern, value)), says)


def _sequence(item: Parameter, most: int) -> Parameter:
    return Parameter(
        lambda value: isinstance(value, list) and len(value) <= most and all(map(item.fits, value)),
        f"a list of at most {most}, each {item.says}",
    )


def _or_first(item: Parameter) -> Parameter:
    """An option, or the list of options of which MONAI Label takes the first."""
    return Parameter(
        lambda value: item.fits(value) or (isinstance(value, list) and bool(value) and all(map(item.fits, value))),
        item.says,
    )


def plain_name(name: str) -> bool:
    """Whether a name is that of one file in a folder: no path, no code, nothing that a terminal obeys.

    >>> plain_name("well 3, 10 µm"), plain_name("../well"), plain_name("/etc/passwd"), plain_name("$print(1)")
    (True, False, False, False)
    """
    return (
        0 < len(name) <= _MAX_NAME
        and name == name.strip()
        and not name.startswith((*_CODE, "."))
        and not name.endswith(".")
        and not any(character in '/\\:*?"<>|' or unicodedata.category(character)[0] == "C" for character in name)
        and unicodedata.is_normalized("NFC", name)
    )


BOOLEAN = Parameter(lambda value: isinstance(value, bool), "true or false")
NAME = Parameter(
    lambda value: isinstance(value, str) and plain_name(value),
    "a plain name: no path, not beginning with $, @, % or a dot",
)
_EMPTY_OR_NAME = Parameter(lambda value: value in ("", None) or NAME.fits(value), f"empty, or {NAME.says}")
_DEVICE = _or_first(_text(r"[A-Za-z][A-Za-z0-9 ()/._+-]{0,80}(:[0-9]{1,2})?", "a device such as 'cpu' or 'cuda:0'"))
_WEIGHTS = _or_first(
    _text(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}\.pt", "a file of the bundle's models, such as 'model.pt'")
)
_LEVEL = Parameter(
    lambda value: isinstance(value, str) and value.upper() in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "a level of logging",
)
_GPUS = _text(r"all|[0-9]{1,2}(,[0-9]{1,2}){0,15}", "'all' or numbers of GPUs, '0,1'")
_CLICKS = _sequence(_sequence(_integer(-(2**31), 2**31), 3), 10_000)
_TEXT_BOOLEAN = _text("(?i)true|false|0|1|yes|no|on|off", "true or false")
_TEXT_INTEGER = _text("[0-9]{1,9}", "a whole number")

_CLIENT = {"client_id": _EMPTY_OR_NAME}
_RUN = {"device": _DEVICE, "multi_gpu": BOOLEAN, "gpus": _GPUS, "logging": _LEVEL, "max_workers": _integer(0, 64)}
INFER = {
    **_CLIENT,
    **_RUN,
    "model_filename": _WEIGHTS,
    "cell_ids": BOOLEAN,
    "save_label": BOOLEAN,
    "label_tag": NAME,
    "result_extension": _one_of(*(kind for kind in EXTENSIONS if kind not in (".jpg", ".jpeg", ".bmp"))),
    "result_dtype": _one_of("uint8", "uint16", "uint32", "int16", "int32", "int64", "float32"),
    "result_compress": BOOLEAN,
    "restore_label_idx": BOOLEAN,
    "output": _one_of("json", "image", "all", "asap", "dsa"),
    "timeout": _number(1, 86_400),
    "foreground": _CLICKS,
    "background": _CLICKS,
}
TRAIN = {
    **_CLIENT,
    **_RUN,
    "name": NAME,
    "pretrained": BOOLEAN,
    "max_epochs": _integer(1, 100_000),
    "val_split": _number(0, 0.9, -1),
    "force_multi_gpu": BOOLEAN,
    "tracking": _or_first(_one_of("None", "none", "", "mlflow")),
    "tracking_uri": Parameter(lambda value: value in ("", None), "empty: set it where the server is started"),
    "tracking_experiment_name": _EMPTY_OR_NAME,
    "tracking_run_name": _EMPTY_OR_NAME,
    "run_id": _one_of("", "run", "training"),
    "model_filename": _WEIGHTS,
}
BATCH = {key: value for key, value in INFER.items() if key not in ("output", "foreground", "background")} | {
    "max_batch_size": _integer(0, 10**6)
}
SCORING = {**_CLIENT, **_RUN, "max_samples": _integer(0, 10**6), "simulation_size": _integer(2, 100)}
SAMPLE = {**_CLIENT, "label_tag": NAME}
WSI = {
    **_CLIENT,
    "level": _integer(0, 0),
    "location": _sequence(_integer(0, 2**31), 2),
    "size": _sequence(_integer(0, 2**31), 2),
    "tile_size": _sequence(_integer(1, 2**20), 2),
    "min_poly_area": _integer(0, 2**31),
}


@dataclasses.dataclass(frozen=True)
class Route:
    """A request that is handed on: its method, path, parameters in the address, and kind of body.

    Args:
        methods: of HTTP.
        path: pattern; its groups are plain names.
        query: parameters in the address, as text.
        body: parameters of a JSON object, or None for no body.
        form: fields of a form, each checked as JSON with these parameters; None for what may be any plain JSON.
        files: fields that hold a file, and the extensions that it may have.
    """

    methods: tuple[str, ...]
    path: str
    query: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    body: Mapping[str, Parameter] | None = None
    form: Mapping[str, Mapping[str, Parameter] | None] = dataclasses.field(default_factory=dict)
    files: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


_ITEM = "/([^/]+)"
_IMAGE = {"image": NAME}
_LABEL = {"label": NAME, "image": NAME, "id": NAME, "tag": _EMPTY_OR_NAME}
_SESSION = {"session_id": _text("[0-9a-f-]{0,36}", "the id of a session")}
_STATUS = {"all": _TEXT_BOOLEAN, "check_if_running": _TEXT_BOOLEAN}
_START = {"run_sync": _TEXT_BOOLEAN, "enqueue": _TEXT_BOOLEAN}
_INFER_QUERY = {"image": _EMPTY_OR_NAME, **_SESSION, "output": INFER["output"]}
ROUTES = (
    Route(("GET",), "/|/docs|/openapi.json|/favicon.ico|/static/[A-Za-z0-9_./-]+"),
    Route(("GET",), "/info/?|/auth/?|/auth/token/valid"),
    Route(("POST",), "/auth/token", form={"username": None, "password": None, "grant_type": None, "client_id": None}),
    Route(
        ("GET",),
        "/logs/?",
        {"lines": _TEXT_INTEGER, "html": _TEXT_BOOLEAN, "text": _TEXT_BOOLEAN, "refresh": _TEXT_INTEGER},
    ),
    Route(("GET",), "/datastore/?", {"output": _one_of("train", "stats", "all")}),
    Route(("PUT",), "/datastore/?|/datastore/image", _IMAGE, form={"params": None}, files={"file": EXTENSIONS}),
    Route(("DELETE",), "/datastore/?|/datastore/image", {"id": NAME}),
    Route(("GET", "HEAD"), "/datastore/image", {**_IMAGE, "check_sum": _text("[A-Za-z0-9:]{1,200}", "a checksum")}),
    Route(("GET",), "/datastore/image/info", _IMAGE),
    Route(("PUT",), "/datastore/image/info", _IMAGE, form={"info": None}),
    Route(("GET", "HEAD", "DELETE"), "/datastore/label", _LABEL),
    Route(("PUT",), "/datastore/label", _LABEL, form={"params": None}, files={"label": LABEL_EXTENSIONS}),
    Route(("GET",), "/datastore/label/info", _LABEL),
    Route(("PUT",), "/datastore/label/info", _LABEL, form={"info": None}),
    Route(("PUT",), "/datastore/updatelabelinfo", _LABEL, form={"params": None}),
    Route(("GET",), "/datastore/dataset", {"limit_cases": _TEXT_INTEGER}),
    Route(("POST",), f"/infer/wsi{_ITEM}", _INFER_QUERY, body=WSI),
    Route(("POST",), f"/infer/wsi_v2{_ITEM}", _INFER_QUERY, form={"wsi": WSI}, files={"file": EXTENSIONS}),
    Route(
        ("POST",),
        f"/infer{_ITEM}",
        _INFER_QUERY,
        form={"params": INFER},
        files={"file": EXTENSIONS, "label": LABEL_EXTENSIONS},
    ),
    Route(("GET",), "/train/?|/batch/infer/?|/scoring/?", _STATUS),
    Route(("DELETE",), "/train/?|/batch/infer/?|/scoring/?"),
    Route(("POST",), f"/train/?|/train{_ITEM}", _START, body=TRAIN),
    Route(("POST",), f"/batch/infer{_ITEM}", {**_START, "images": _one_of("all", "labeled", "unlabeled")}, body=BATCH),
    Route(("POST",), f"/scoring/?|/scoring{_ITEM}", _START, body=SCORING),
    Route(("POST",), f"/activelearning{_ITEM}", body=SAMPLE),
    Route(("GET",), f"/model{_ITEM}|/model/info{_ITEM}"),
    Route(("PUT",), f"/model{_ITEM}", files={"file": (".pt",)}),
    Route(("GET",), f"/session{_ITEM}", {"update_ts": _TEXT_BOOLEAN, "image": _TEXT_BOOLEAN}),
    Route(("DELETE",), f"/session{_ITEM}"),
    Route(
        ("PUT",),
        "/session/?",
        {"uncompress": _TEXT_BOOLEAN, "expiry": _TEXT_INTEGER, **_CLIENT},
        files={"files": (*EXTENSIONS, ".zip")},
    ),
)


def route(method: str, path: str) -> Route:
    """Entry of the table for a request, its names in the path checked.

    Raises:
        UnknownRoute: nothing is handed on there.
        ValueError: a name in the path that is not plain.
    """
    for entry in ROUTES:
        if method in entry.methods and (match := re.fullmatch(entry.path, path)):
            if ".." in PurePosixPath(path).parts:
                break
            for name in match.groups():
                if name is not None:
                    _check(name, NAME, path)
            return entry
    raise UnknownRoute(f"{method} {_shown(path)}: no such address here")


def check_query(entry: Route, pairs: Sequence[tuple[str, str]]) -> None:
    """Check the parameters in an address.

    Raises:
        ValueError: an unknown one, one that occurs twice, or a value out of its range.
    """
    _check_all(dict(pairs), entry.query, "in the address")
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"{_shown([key for key, _ in pairs])}: a parameter occurs twice in the address")


def check_body(entry: Route, data: bytes) -> None:
    """Check a JSON body.

    Raises:
        ValueError: no JSON object, an unknown parameter, or a value out of its range.
    """
    content = parse(data.decode("utf-8", errors="replace") or "null", "body")
    if content is None:
        return
    if entry.body is None or not isinstance(content, dict):
        raise ValueError(f"body={_shown(content)}: expected a JSON object of parameters")
    nested = {key: value for key, value in content.items() if isinstance(value, dict) and key not in entry.body}
    if entry.body is WSI:
        _check_all(nested.pop("params", {}), INFER, "in params")
        content = {key: value for key, value in content.items() if key != "params"}
    elif nested and re.fullmatch("/(train|scoring).*", entry.path):
        # parameters for each of several models
        for name, value in nested.items():
            _check(name, NAME, "a model")
            _check_all(value, entry.body, f"of {name}")
        content = {key: value for key, value in content.items() if key not in nested}
    _check_all(content, entry.body, "in the body")


def check_form(entry: Route, fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, str]]) -> None:
    """Check the fields of a form.

    Args:
        entry: of the table.
        fields: names and texts.
        files: names, and names of the files that were sent in them.

    Raises:
        ValueError: an unknown field, one that occurs twice, a value out of its range, a file of another kind.
    """
    if len({name for name, _ in fields}) < len(fields):
        raise ValueError(f"{_shown([name for name, _ in fields])}: a field occurs twice")
    for name, text in fields:
        if name not in entry.form:
            raise ValueError(f"{_shown(name)}: no field of this request; it has {', '.join(entry.form) or 'none'}")
        table = entry.form[name]
        if "password" in entry.form:
            continue
        content = parse(text or "{}", name)
        if not isinstance(content, dict):
            raise ValueError(f"{name}={_shown(content)}: expected a JSON object")
        if table is WSI:
            _check_all(content.pop("params", {}) or {}, INFER, "in params")
        if table is not None:
            _check_all(content, table, f"in {name}")
    for name, filename in files:
        if name not in entry.files:
            raise ValueError(f"{_shown(name)}: no file is expected there")
        # MONAI Label's own client sends the whole path, of which MONAI Label takes the last part
        if not plain_name(re.split(r"[/\\]", filename)[-1]) or not filename.isprintable():
            raise ValueError(f"{name}={_shown(filename)}: the file must have {NAME.says}")
        if not any(filename.lower().endswith(kind) and len(filename) > len(kind) for kind in entry.files[name]):
            raise ValueError(f"{name}={_shown(filename)}: must be one of {' '.join(entry.files[name])}")


def parse(text: str, where: str) -> Any:
    """JSON of which nothing, however deep, is code to MONAI.

    Raises:
        ValueError: no JSON, NaN or infinite, nested too deep, a name twice, or a string or name that begins with
            ``$``, ``@`` or ``%``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    def finite(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            raise ValueError(f"{word[:20]} is no finite number")
        return value

    try:
        content = json.loads(text, object_pairs_hook=unique, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is no JSON ({str(error)[:100]})") from error
    for found, depth in _strings(content):
        if found.strip().startswith(_CODE):
            raise ValueError(f"{where}: {_shown(found)} begins with {found.strip()[0]}, which is code to MONAI")
        if depth > _MAX_DEPTH or len(found) > _MAX_TEXT:
            raise ValueError(f"{where}: nested deeper than {_MAX_DEPTH}, or a text longer than {_MAX_TEXT}")
    return content


def _strings(content: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    """Every string and name in JSON, with its depth; nothing deeper than is permitted."""
    if depth > _MAX_DEPTH:
        yield "", depth
    elif isinstance(content, str):
        yield content, depth
    elif isinstance(content, dict):
        for key, value in content.items():
            # a name with "_target_" or "#" means something to MONAI's parser
            yield (f"${key}" if key.startswith("_") or "#" in key or "::" in key else key), depth
            yield from _strings(value, depth + 1)
    elif isinstance(content, list):
        for value in content:
            yield from _strings(value, depth + 1)


def _check_all(values: Any, table: Mapping[str, Parameter], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {_shown(values)}, expected names and values")
    for name, value in values.items():
        if isinstance(value, str) and value.strip().startswith(_CODE):
            raise ValueError(f"{_shown(name)}={_shown(value)}: begins with {value.strip()[0]}, which is code to MONAI")
        if name not in table:
            known = ", ".join(table) or "none"
            raise ValueError(f"{_shown(name)}={_shown(value)}: no parameter {where}; known are {known}")
        _check(value, table[name], name)


def _check(value: Any, parameter: Parameter, name: str) -> None:
    if not parameter.fits(value):
        raise ValueError(f"{name}={_shown(value)}: must be {parameter.says}")


def _shown(value: Any) -> str:
    """A value from elsewhere, short and printable."""
    return ascii(value)[:120]
