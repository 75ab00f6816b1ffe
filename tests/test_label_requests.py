"""What a request to MONAI Label's server may say: the requests of its clients, and what no client sends."""

import json
from typing import Any

import pytest

from unet_paper.release import label_requests
from unet_paper.release.label_requests import (
    UnknownRoute,
    check_body,
    check_form,
    check_query,
    parse,
    plain_name,
    route,
)

NAME = "unet_em_segmentation"

# Written anew from what the clients send: Python's and 3D Slicer's, QuPath's extension, CVAT's detector.
CLIENTS: list[tuple[str, str, str, list[tuple[str, str]], dict[str, Any] | None, dict[str, Any], dict[str, str]]] = [
    ("Python, info", "GET", "/info/", [], None, {}, {}),
    ("Python, login", "GET", "/auth/", [], None, {}, {}),
    ("Python, store", "GET", "/datastore/", [("output", "all")], None, {}, {}),
    ("Python, sample", "POST", "/activelearning/epistemic", [], {"client_id": None}, {}, {}),
    (
        "Python, infer",
        "POST",
        f"/infer/{NAME}",
        [("image", "a b")],
        None,
        {"params": {"device": "cpu", "client_id": None}},
        {},
    ),
    (
        "Python, own image",
        "POST",
        f"/infer/{NAME}",
        [("image", "")],
        None,
        {"params": {"device": "cpu"}},
        {"file": "a.tif"},
    ),
    (
        "Python, label",
        "PUT",
        "/datastore/label",
        [("image", "a"), ("tag", "final")],
        None,
        {"params": {"client_id": None}},
        {"label": "a.nii.gz"},
    ),
    (
        "Python, training",
        "POST",
        f"/train/{NAME}",
        [],
        {"max_epochs": 8, "val_split": 0.34, "device": "cpu", "multi_gpu": False, "client_id": None},
        {},
        {},
    ),
    (
        "Python, batch",
        "POST",
        f"/batch/infer/{NAME}",
        [("images", "unlabeled")],
        {
            "device": "cuda",
            "multi_gpu": True,
            "gpus": "all",
            "logging": "WARNING",
            "save_label": True,
            "label_tag": "original",
            "max_workers": 1,
            "max_batch_size": 0,
        },
        {},
        {},
    ),
    (
        "Slicer, infer",
        "POST",
        f"/infer/{NAME}",
        [("image", "well3")],
        None,
        {
            "params": {
                "device": "NVIDIA H100 80GB HBM3:0",
                "model_filename": "model.pt",
                "cell_ids": True,
                "result_extension": ".nrrd",
                "result_dtype": "uint8",
                "result_compress": False,
                "restore_label_idx": False,
                "client_id": "user-xyz",
            }
        },
        {},
    ),
    ("Slicer, session", "PUT", "/session/", [("client_id", "user-xyz")], None, {}, {"files": "a.nrrd"}),
    (
        "Slicer, of a session",
        "POST",
        f"/infer/{NAME}",
        [("image", "a"), ("session_id", "8f3a91c0-0000-11ee-9999-0242ac120002")],
        None,
        {"params": {}},
        {},
    ),
    (
        "Slicer, training",
        "POST",
        f"/train/{NAME}",
        [],
        {
            "device": "cpu",
            "pretrained": True,
            "max_epochs": 50,
            "val_split": 0.2,
            "multi_gpu": True,
            "gpus": "all",
            "tracking": "None",
            "tracking_uri": "",
            "tracking_experiment_name": "",
            "run_id": "",
            "model_filename": "model.pt",
            "client_id": "user-xyz",
        },
        {},
        {},
    ),
    (
        "Slicer, label",
        "PUT",
        "/datastore/label",
        [("image", "well3")],
        None,
        {
            "params": {
                "label_info": [{"name": "cell 1", "idx": 1}, {"name": "Zelle µ", "idx": 2}],
                "client_id": "user-xyz",
            }
        },
        {"label": "tmpab12.seg.nrrd"},
    ),
    (
        "Slicer, upload",
        "PUT",
        "/datastore/",
        [("image", "well3")],
        None,
        {"params": {"client_id": "user-xyz"}},
        {"file": "well3.nii.gz"},
    ),
    ("QuPath, is it there", "HEAD", "/datastore/image", [("image", "well3")], None, {}, {}),
    (
        "QuPath, infer",
        "POST",
        f"/infer/wsi/{NAME}",
        [("output", "asap"), ("image", "well3")],
        {
            "level": 0,
            "location": [0, 0],
            "size": [0, 0],
            "tile_size": [1024, 1024],
            "min_poly_area": 30,
            "params": {"foreground": [], "background": [[3, 4]], "max_workers": 1},
        },
        {},
        {},
    ),
    (
        "QuPath, patch",
        "POST",
        f"/infer/wsi_v2/{NAME}",
        [("output", "asap")],
        None,
        {
            "wsi": {
                "level": 0,
                "location": [0, 0],
                "size": [0, 0],
                "tile_size": [1024, 1024],
                "min_poly_area": 30,
                "params": {"foreground": [], "background": [], "max_workers": 1},
            }
        },
        {"file": "patch123.png"},
    ),
    (
        "QuPath, label",
        "PUT",
        "/datastore/label",
        [("image", "well3")],
        None,
        {"params": {}},
        {"label": "well34711.xml"},
    ),
    (
        "QuPath, image",
        "PUT",
        "/datastore/image",
        [("image", "well3-patch-0_0_64_64")],
        None,
        {"params": {}},
        {"file": "patch1.png"},
    ),
    (
        "CVAT",
        "POST",
        f"/infer/{NAME}",
        [("image", "")],
        None,
        {"params": {"output": "json", "client_id": None}},
        {"file": "/tmp/tmpabc.jpg"},
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "form", "files"),
    [case[1:] for case in CLIENTS],
    ids=[case[0] for case in CLIENTS],
)
def test_what_clients_send_passes(
    method: str, path: str, query: Any, body: Any, form: dict[str, Any], files: dict[str, str]
) -> None:
    entry = route(method, path)
    check_query(entry, query)
    if body is not None:
        check_body(entry, json.dumps(body).encode())
    check_form(entry, [(name, json.dumps(value)) for name, value in form.items()], list(files.items()))


@pytest.mark.parametrize("evil", ["$print(1)", "@network", "%config.json", " $print(1)", "\t@x"])
def test_what_is_code_to_monai_is_refused_however_deep(evil: str) -> None:
    for content in (evil, [evil], {"a": evil}, {"a": [{"b": [evil]}]}, {evil: 1}):
        with pytest.raises(ValueError, match="code to MONAI"):
            parse(json.dumps(content), "params")
    entry = route("POST", f"/infer/{NAME}")
    with pytest.raises(ValueError, match="code to MONAI"):
        check_form(entry, [("params", json.dumps({"cell_ids": evil}))], [])
    with pytest.raises(ValueError, match="code to MONAI"):
        check_query(entry, [("image", evil)])
    for path in (f"/train/{NAME}", "/scoring/epistemic", f"/batch/infer/{NAME}", "/activelearning/random"):
        with pytest.raises(ValueError, match="code to MONAI"):
            check_body(route("POST", path), json.dumps({"device": evil}).encode())


@pytest.mark.parametrize("content", [{"_target_": "os.system"}, {"a": {"_requires_": 1}}, {"a#b": 1}, {"a::b": 1}])
def test_names_that_mean_something_to_monai_are_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="code to MONAI"):
        parse(json.dumps(content), "info")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("max_epochs", 0, "from 1 to"),
        ("max_epochs", 2.0, "whole number"),
        ("max_epochs", True, "whole number"),
        ("max_epochs", "8", "whole number"),
        ("val_split", 0.95, "from 0 to 0.9, or -1"),
        ("val_split", -0.5, "from 0 to 0.9, or -1"),
        ("device", "/dev/null", "a device"),
        ("device", [], "a device"),
        ("gpus", "0;1", "numbers of GPUs"),
        ("run_id", "initialize", "one of"),
        ("tracking_uri", "http://127.0.0.1:5000", "empty"),
        ("model_filename", "../model.pt", "a file of the bundle"),
        ("model_filename", ["a/b.pt"], "a file of the bundle"),
        ("multi_gpu", 1, "true or false"),
        ("image", "/etc/passwd", "no parameter"),
    ],
)
def test_a_parameter_has_a_type_and_a_range(name: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as info:
        check_body(route("POST", f"/train/{NAME}"), json.dumps({name: value}).encode())
    assert name in str(info.value)


def test_limits_of_ranges_are_in_them() -> None:
    for params in ({"max_epochs": 1}, {"max_epochs": 100_000}, {"val_split": 0}, {"val_split": 0.9}, {"val_split": -1}):
        check_body(route("POST", f"/train/{NAME}"), json.dumps(params).encode())
    check_body(route("POST", "/train/"), json.dumps({NAME: {"max_epochs": 3}}).encode())
    with pytest.raises(ValueError, match="max_epochs"):
        check_body(route("POST", "/train/"), json.dumps({NAME: {"max_epochs": 0}}).encode())


@pytest.mark.parametrize("text", ["{", "NaN", "[1e999]", '{"a": 1, "a": 2}', "[" * 100_000, "[" * 20 + "]" * 20, "'a'"])
def test_what_is_no_plain_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="params"):
        parse(text, "params")


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "a/b",
        "/a",
        "a\\b",
        "C:a",
        "",
        ".",
        "..",
        ".hidden",
        "a.",
        " a",
        "a\n",
        "a\0",
        "\x1b[2J",
        "\u202ea",
        "e\u0301",
        "a*",
        "x" * 201,
    ],
)
def test_ids_and_tags_are_plain_names(name: str) -> None:
    assert not plain_name(name)
    for method, path, key in (
        ("PUT", "/datastore/image", "image"),
        ("PUT", "/datastore/label", "tag"),
        ("DELETE", "/datastore/label", "id"),
        ("GET", "/datastore/image", "image"),
    ):
        if name or key != "tag":
            with pytest.raises(ValueError, match=key):
                check_query(route(method, path), [(key, name)])
    if not set(name) & set("/\\"):
        with pytest.raises(ValueError, match=r"plain name|must be one of"):
            check_form(route("PUT", "/datastore/image"), [], [("file", f"/home/user/{name}")])


def test_files_have_the_extensions_that_are_read() -> None:
    entry = route("PUT", "/datastore/label")
    for name in ("a.tif", "a.nii.gz", "a.nrrd", "a.seg.nrrd", "a.xml"):
        check_form(entry, [], [("label", name)])
    for name in ("a.py", "a.svs", "a", ".tif", "a.tif.exe"):
        with pytest.raises(ValueError, match="label"):
            check_form(entry, [], [("label", name)])
    with pytest.raises(ValueError, match="no file"):
        check_form(entry, [], [("file", "a.tif")])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"/model/{NAME}"),  # inference would go on with random weights
        ("GET", "/proxy/dicom/wado/x"),
        ("POST", "/reload"),
        ("GET", "/static/../app.py"),
        ("GET", "/datastore/../x"),
        ("TRACE", "/info/"),
        ("POST", "/infer/a/b"),
    ],
)
def test_other_addresses_are_not_handed_on(method: str, path: str) -> None:
    with pytest.raises(UnknownRoute):
        route(method, path)


def test_names_in_the_path_are_plain() -> None:
    for name in ("..", "$print(1)", ".x", "a\\b"):
        with pytest.raises((ValueError, UnknownRoute)):
            route("GET", f"/session/{name}")


def test_parameters_and_fields_occur_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        check_query(route("GET", "/datastore/image"), [("image", "a"), ("image", "b")])
    with pytest.raises(ValueError, match="twice"):
        check_form(route("POST", f"/infer/{NAME}"), [("params", "{}"), ("params", "{}")], [])


def test_every_parameter_has_words_for_what_it_must_be() -> None:
    tables = (
        label_requests.INFER,
        label_requests.TRAIN,
        label_requests.BATCH,
        label_requests.SCORING,
        label_requests.WSI,
    )
    for table in tables:
        for name, parameter in table.items():
            assert parameter.says, name
            assert not parameter.fits({"a": 1}), name
            assert not parameter.fits("$print(1)"), name
