"""An adversary without weights to train: ridge regression, in closed form, from features of released clips to the attributes.

It never lags behind the anonymizer. A regression within one batch of 24 is fitted by chance as well as by a leak (docs/LOG.md), so it
also remembers the features of the last batches, which change slowly. G clips of a global batch, F features, A attributes.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stprivacy.config import Clip, Recognizers
from stprivacy.config import ClosedForm as Settings
from stprivacy.models.recognizers import build_recognizer
from stprivacy.randomness import keyed_seed
from stprivacy.training.objectives import ridge_r2


class ClosedFormAdversary:
    """Features of random recognizers, drawn anew every `settings.redraw` steps, and of frozen raw-trained ones, with their memory."""

    def __init__(
        self, settings: Settings, raw_trained: Sequence[nn.Module], recognizers: Recognizers, clip: Clip, num_attributes: int, seed: int
    ):
        self.settings, self.raw_trained = settings, list(raw_trained if settings.raw_trained else ())
        self.recognizers, self.clip, self.num_attributes, self.seed = recognizers, clip, num_attributes, seed
        self._drawn: tuple[int, list[nn.Module]] = (-1, [])
        self._memory: deque[tuple[int, list[Tensor], Tensor]] = deque(maxlen=settings.memory)

    def networks(self, step: int, device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
        """The random recognizers of this step, the same on every worker, and the raw-trained ones."""
        draw = step // self.settings.redraw
        if self._drawn[0] != draw:
            random: list[nn.Module] = []
            for index, kind in enumerate(self.settings.random_kinds):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(keyed_seed("closed-form", self.seed, draw, index))
                    network: nn.Module = build_recognizer(kind, self.num_attributes, self.recognizers, self.clip)
                random.append(network.requires_grad_(False).to(device, dtype))
            self._drawn = draw, random
        return self._drawn[1] + self.raw_trained

    def r2(self, features: Sequence[Tensor], attributes: Tensor, step: int) -> Tensor:
        """Leave-one-out R² (feature sets, A) on a global batch, learned from it and from the batches remembered.

        `features`: (G, F) a feature set, alive where a gradient is wanted; `attributes`: (G, A). The batch is remembered for later steps.
        """
        draw = step // self.settings.redraw
        past = [(rows, labels) for when, rows, labels in self._memory if when < step and when // self.settings.redraw == draw]
        labels = torch.cat([attributes, *(known for _, known in past)])
        found = [
            ridge_r2(torch.cat([mine, *(rows[index] for rows, _ in past)]), labels, self.settings.ridge, len(mine))
            for index, mine in enumerate(features)
        ]
        if self.settings.memory and not (self._memory and self._memory[-1][0] == step):  # later micro-batches bring the same rows
            self._memory.append((step, [mine.detach() for mine in features], attributes))
        return torch.stack(found)

    def state(self) -> dict[str, Tensor]:
        """The memory as tensors that a checkpoint can hold."""
        if not self._memory:
            return {}
        steps, features, attributes = zip(*self._memory, strict=True)
        by_network = {f"features-{index}": torch.stack(rows) for index, rows in enumerate(zip(*features, strict=True))}
        return {"steps": torch.tensor(steps), "attributes": torch.stack(attributes), **by_network}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state()` gave."""
        self._memory.clear()
        if state:
            features = [state[f"features-{index}"] for index in range(len(state) - 2)]
            for entry, step in enumerate(state["steps"].tolist()):
                self._memory.append((step, [rows[entry] for rows in features], state["attributes"][entry]))
