"""An adversary on latents, without weights to train: kernel ridge regression from all latents seen to the attributes.

Nothing in a release tells more than its latents, so there is nothing else to attack; and since latents are few, the regression can learn
from the whole training split at every step. G clips of a global batch, Z latents, A attributes, M clips remembered.
"""

import torch
from torch import Tensor

from stprivacy.training.objectives import kernel_r2

FEWEST = 64
"""Clips remembered from which it plays: of fewer it learns luck."""


class LatentsAdversary:
    """The latents of every training clip as they were last seen, and the R² of a regression that has learned from the others'."""

    def __init__(self, ridge: float):
        self.ridge = ridge
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}
        self._last: tuple[int, Tensor, Tensor, list[int]] | None = None  # of a step that is not remembered yet

    def r2(self, latents: Tensor, attributes: Tensor, samples: list[int], step: int) -> Tensor:
        """R² (kernels, A) on a global batch, learned from all other clips remembered; zeros while those are few.

        `latents` (G, Z), alive where a gradient is wanted; `attributes` (G, A). The batch is remembered from the next step on.
        """
        self._remember(step)
        self._last = step, latents.detach(), attributes.detach(), samples
        judged = set(samples)
        known = [entry for sample, entry in self._memory.items() if sample not in judged]
        if len(known) < FEWEST:
            return attributes.new_zeros(1, attributes.shape[1])
        theirs, labels = (torch.stack(values) for values in zip(*known, strict=True))
        return kernel_r2(latents, attributes, theirs, labels, self.ridge)

    def _remember(self, step: int) -> None:
        """Take the batch of an earlier step in; micro-batches of one step bring the same rows again."""
        if self._last and self._last[0] < step:
            _, latents, attributes, samples = self._last
            self._memory |= {sample: (latents[row], attributes[row]) for row, sample in enumerate(samples)}

    def state(self) -> dict[str, Tensor]:
        """The memory as tensors that a checkpoint can hold."""
        if self._last:
            self._remember(self._last[0] + 1)
        if not self._memory:
            return {}
        latents, attributes = (torch.stack(values) for values in zip(*self._memory.values(), strict=True))
        return {"samples": torch.tensor(list(self._memory)), "latents": latents, "attributes": attributes}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state()` gave."""
        self._memory, self._last = {}, None
        if state:
            samples = state["samples"].tolist()
            self._memory = dict(zip(samples, zip(state["latents"], state["attributes"], strict=True), strict=True))
