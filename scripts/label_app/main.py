"""MONAI Label's ``monaibundle`` app for cells: labels checked before they are kept, polygons, active learning.

``scripts/label_app/start.py`` puts this file in the place of the stock app's ``main.py``, which becomes ``stock.py``.
What may be asked of it stands in ``unet_paper.release.label_requests``, and ``server.py`` asks there first.
"""

import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests
import stock
import torch
from monai.transforms import Lambdad
from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring

from unet_paper.data.reader import PageReader
from unet_paper.release import monai_label, polygons
from unet_paper.running.settings import cause

logger = logging.getLogger(__name__)

# Outlines with a smaller area are no cells; what QuPath asks for is taken instead.
MIN_AREA = 0


class OneAtATime(BundleInferTask):
    """Inference whose config is asked by one request at a time: MONAI's parser resolves it anew for each of them.

    MONAI Label scores two images at once, and one of them then finds the config half resolved.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._free = threading.Lock()
        super().__init__(*args, **kwargs)

    def __call__(self, request: Any, callbacks: Any = None) -> tuple[Any, dict[str, Any]]:
        with self._free:
            return super().__call__(request, callbacks)


class CellTask(OneAtATime):
    """Inference that names every cell of its answer, so that 3D Slicer shows each and not the first alone."""

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, Any]:
        numbers = monai_label.cell_numbers(data[self.key_pred])
        file, answer = super().writer(data, extension, dtype)
        return file, {**answer, "cells": numbers}

    def __call__(self, request: Any, callbacks: Any = None) -> tuple[Any, dict[str, Any]]:
        chosen = request.get("model_filename")
        name = chosen[0] if isinstance(chosen, list) else chosen
        if name and not (Path(self.bundle_path) / "models" / name).is_file():
            raise ValueError(f"model_filename={name!r}: no such weights in the bundle")
        file, answer = super().__call__(request, callbacks)
        if numbers := answer.pop("cells", []):
            names = {monai_label.CELL: 1} if numbers == [1] else {f"{monai_label.CELL} {n}": n for n in numbers}
            answer["label_names"] = names
        return file, answer


class ProbabilityTask(OneAtATime):
    """Inference that ends with probabilities of all classes: the entropy of cell ids would say nothing."""

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:  # noqa: ARG002 - MONAI Label's signature
        return [Lambdad(keys=self.key_pred, func=_with_background)]


def _with_background(probability: torch.Tensor) -> torch.Tensor:
    """Of two classes the inferer gives that of the cell alone."""
    return torch.cat([1 - probability, probability]) if len(probability) == 1 else probability


class CheckedDatastore(LocalDatastore):
    """A folder that takes images and labels only if they can be read."""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        PageReader().get_data(image_filename)
        return str(super().add_image(image_id, image_filename, image_info))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        image = self.get_image_uri(image_id)
        if not image:
            raise ImageNotFoundException(f"image={image_id}: no such image")
        with tempfile.TemporaryDirectory() as folder:
            label = monai_label.as_label_image(Path(label_filename), Path(image), Path(folder))
            return str(super().save_label(image_id, str(label), label_tag, label_info))


# MONAI Label takes the class that names MONAILabelApp itself among its bases
class LabelApp(stock.MyApp, MONAILabelApp):
    """The stock app, and the strategy ``epistemic``: the image whose prediction varies most under dropout."""

    def init_datastore(self) -> Datastore:
        return CheckedDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {name: CellTask(folder, self.conf) for name, folder in self.models.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        return {**super().init_strategies(), "epistemic": Epistemic()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {
            name: EpistemicScoring(
                ProbabilityTask(folder, self.conf, train_mode=True, skip_writer=True, dropout=self.epistemic_dropout),
                max_samples=self.epistemic_max_samples,
                simulation_size=self.epistemic_simulation_size,
            )
            for name, folder in (self.epistemic_models or {}).items()
        }

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """As the stock app's; with ``output=json`` the answer holds the outlines of the cells, as CVAT needs them."""
        image, store = request.get("image"), datastore or self.datastore()
        # an image that is sent along lies in a file of the server's; what a client names is one of the store's
        if isinstance(image, str) and not os.path.isabs(image) and not store.get_image_uri(image):
            raise ImageNotFoundException(f"image={image}: no such image in {self.studies}")
        if request.get("output") != "json":
            return super().infer(request, datastore)
        answer = super().infer({**request, "cell_ids": True, "result_extension": ".tif"}, datastore)
        ids = PageReader().get_data(answer["file"])[0]
        contours = [corners for _, corners in polygons.outlines(ids, MIN_AREA)]
        element = {"label": monai_label.CELL, "contours": contours}
        annotation = {"labels": {monai_label.CELL: [255, 0, 0]}, "elements": [element]}
        answer["params"]["annotations"] = [{"annotation": annotation}]
        return answer

    def infer_wsi(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """Outlines of the cells in a region of an image, as QuPath asks for them: XML, JSON of DSA, or plain JSON."""
        min_area, output = request.get("min_poly_area") or MIN_AREA, request.get("output") or "dsa"
        x, y, width, height = (*(request.get("location") or (0, 0)), *(request.get("size") or (0, 0)))
        kept = {key: value for key, value in request.items() if key in ("model", "image", "device", "model_filename")}
        answer = self.infer({**kept, "output": "image", "cell_ids": True, "result_extension": ".tif"}, datastore)
        ids = PageReader().get_data(answer["file"])[0]
        Path(answer["file"]).unlink()
        if width > 0 and height > 0:
            ids = monai_label.within(ids, x, y, width, height)
        found = [corners for _, corners in polygons.outlines(ids, min_area)]
        about = {"Name": f"MONAI Label, {request['model']}", "Model": str(request["model"])}
        file = Path(tempfile.mkdtemp()) / f"cells.{'xml' if output == 'asap' else 'json'}"
        if output == "asap":
            file.write_bytes(polygons.to_xml(found, monai_label.CELL, ids.shape[::-1], about))
        else:
            file.write_text(json.dumps(_dsa(found, about["Name"])), encoding="utf-8")
        element = {"label": monai_label.CELL, "contours": found}
        annotation = {"labels": {monai_label.CELL: [255, 0, 0]}, "elements": [element]}
        return {"file": str(file), "params": {**answer["params"], "annotations": [{"annotation": annotation}]}}

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """As the stock app's, but an image that cannot be read does not stop the rest: its entry holds the error."""

        def infer_or_explain(request: dict[str, Any], datastore: Any) -> Any:
            try:
                return self.infer(request, datastore)
            except Exception as error:
                logger.exception("%s", request.get("image"))
                return {"error": str(cause(error))}

        return self._batch_infer(request, datastore or self.datastore(), infer_or_explain)

    def _local_request(self, url: str, params: Any, action: str) -> Any:
        """As MONAI Label's, with the token that the server asks for."""
        token = os.environ.get("LABEL_TOKEN", "")
        answer = requests.post(
            f"http://127.0.0.1:{settings.MONAI_LABEL_SERVER_PORT}{url}",
            json=params or {},
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=60,
        )
        if answer.status_code != 200:
            logger.error("%s: %s", action, answer.text)
        return answer.json() if answer.status_code == 200 else None


def _dsa(found: Sequence[polygons.Polygon], name: str) -> dict[str, Any]:
    """Annotations of the Digital Slide Archive."""
    style = {"group": monai_label.CELL, "type": "polyline", "lineColor": "rgb(255, 0, 0)", "lineWidth": 2.0}
    label = {"label": {"value": monai_label.CELL}, "closed": True}
    return {"name": name, "elements": [{**style, **label, "points": [[x, y, 0] for x, y in one]} for one in found]}
