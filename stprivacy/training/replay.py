"""What the adversaries may still see of past releases: the last global batches, this worker's part of each, as uint8.

A release holds multiples of 1/255, so uint8 loses nothing and a quarter of the memory does.
"""

from collections import deque

import torch
from torch import Tensor

from stprivacy.models.channel import to_float, to_uint8
from stprivacy.randomness import keyed_generator


class Replay:
    """The releases of the last `capacity` steps, the newest last."""

    def __init__(self, capacity: int):
        self._entries: deque[tuple[int, Tensor, Tensor]] = deque(maxlen=max(1, capacity))

    def add(self, step: int, released: Tensor, attributes: Tensor) -> None:
        """Keep `released` (b, 3, T, H, W) and its `attributes` (b, A); further parts of the same step are appended to it."""
        stored = to_uint8(released.detach())
        if self._entries and self._entries[-1][0] == step:
            _, clips, labels = self._entries.pop()
            stored, attributes = torch.cat([clips, stored]), torch.cat([labels, attributes])
        self._entries.append((step, stored, attributes))

    def draw(self, last: int, turn: int, key: tuple[int | str, ...]) -> tuple[Tensor, Tensor]:
        """Clips (b, 3, T, H, W) in [0, 1] and attributes (b, A): the newest at turn 0, later one of the `last` newest.

        Which one is drawn from `key`, so that all workers take their parts of the same global batch.
        """
        choices = min(max(1, last), len(self._entries))
        back = 0 if turn == 0 else int(torch.randint(choices, (), generator=keyed_generator(*key)))
        _, clips, attributes = self._entries[-1 - back]
        return to_float(clips), attributes

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors that a checkpoint can hold: steps (E,), clips (E, b, T, H, W, 3), attributes (E, b, A)."""
        if not self._entries:
            return {}
        steps, clips, attributes = zip(*self._entries, strict=True)
        return {"steps": torch.tensor(steps), "clips": torch.stack(clips), "attributes": torch.stack(attributes)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state()` gave."""
        self._entries.clear()
        if state:
            self._entries.extend(zip(state["steps"].tolist(), state["clips"], state["attributes"], strict=True))
