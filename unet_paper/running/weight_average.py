"""A running average of the weights in training: what is validated and kept, where a recipe asks for it.

Not in the paper. The weights of single steps scatter around where they head for, the more so with a batch of one tile;
their average lies nearer (Polyak and Juditsky 1992, doi:10.1137/0330046; Izmailov et al. 2018, arXiv:1803.05407). After
step n the average is moved towards the weights by 1 - min(decay, (1 + n) / (10 + n)): quickly at first, so that the
weights a run began with are soon forgotten.
"""

from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unet_paper.running import checkpoint, engines

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """The averaged network beside one in training; ``WeightAverageHandler`` adds to it.

    Args:
        network: network in training, which is not changed.
        decay: share of the average that a step leaves, such as 0.999: then the last thousand steps count; 0 <= decay
            < 1. None: no average, ``network`` is the network in training itself.

    Raises:
        ValueError: for another decay.
    """

    def __init__(self, network: nn.Module, decay: float | None = None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(
                f"average_decay={decay}: expected 0 <= average_decay < 1, such as 0.999; null keeps the last weights"
            )
        self.trained = network
        self.decay = decay
        self.average: AveragedModel | None = None
        if decay is not None:
            self.average = AveragedModel(checkpoint.bare_network(network), multi_avg_fn=self._move)

    @property
    def network(self) -> nn.Module:
        """The averaged network, which validation and ``Checkpoints`` take; without a decay the one in training."""
        return self.trained if self.average is None else self.average.module

    def add(self) -> None:
        """Move the average towards the weights as they are now."""
        if self.average is not None:
            self.average.update_parameters(checkpoint.bare_network(self.trained))

    def _move(self, average: Tensors, weights: Tensors, _steps: Tensor | int) -> None:
        assert self.decay is not None
        assert self.average is not None
        # PyTorch hands the number over on the device of the weights; read there, it would make the host wait for a GPU
        number = int(self.average.n_averaged)
        move: Any = get_ema_multi_avg_fn(min(self.decay, (1 + number) / (10 + number)))  # type: ignore[no-untyped-call]
        move(average, weights, number)


class WeightAverageHandler:
    """Handler of a trainer that averages the weights of its steps; ``last.pt`` holds how far it has come.

    Attach it before the validation.

    Args:
        average: what is added to.
    """

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Add after every step of the trainer ``engine``, if there is an average."""
        if self.average.average is not None:
            engines.resumable(engine)["weight_average"] = self
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.average.add)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and of how many steps they are."""
        return {} if self.average.average is None else self.average.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the average of ``state_dict``."""
        if self.average.average is not None:
            self.average.average.load_state_dict(state)
