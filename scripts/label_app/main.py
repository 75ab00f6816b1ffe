"""MONAI Label's ``monaibundle`` app with active learning by uncertainty, which it scores but does not offer.

``scripts/label_app/start.py`` puts this file in the place of the stock app's ``main.py``, which becomes ``stock.py``.
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import stock
from monai.transforms import Activationsd
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring

from unet_paper.running.settings import cause

logger = logging.getLogger(__name__)


class ProbabilityTask(BundleInferTask):
    """Inference that ends with probabilities: the entropy of cell ids would say nothing."""

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:  # noqa: ARG002 - MONAI Label's signature
        return [Activationsd(keys=self.key_pred, softmax=True)]


# MONAI Label takes the class that names MONAILabelApp itself among its bases
class LabelApp(stock.MyApp, MONAILabelApp):
    """The stock app and the strategy ``epistemic``: the image whose prediction varies most under dropout."""

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
        image, store = request.get("image"), datastore or self.datastore()
        if isinstance(image, str) and not os.path.exists(image) and not store.get_image_uri(image):
            raise ImageNotFoundException(f"image={image}: no such image in {self.studies}")
        return super().infer(request, datastore)

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> Any:
        """As the stock app's, but an image that cannot be read does not stop the rest: its entry holds the error."""

        def infer_or_explain(request: dict[str, Any], datastore: Any) -> Any:
            try:
                return self.infer(request, datastore)
            except Exception as error:
                logger.exception("%s", request.get("image"))
                return {"error": str(cause(error))}

        return self._batch_infer(request, datastore or self.datastore(), infer_or_explain)
