"""What the adversaries may still see of past releases: the last global batches, this worker's part of each.

Kept is what the anonymizer painted, before the channel, as uint8: each time that it is drawn, the channel's noise is drawn anew, as for
an attacker. An adversary that sees the same noise twice learns it by heart. b clips of this worker, A attributes.
"""

from collections import deque
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from stprivacy.models.anonymizer import Painted
from stprivacy.models.channel import to_float, to_uint8
from stprivacy.randomness import keyed_generator


@dataclass(frozen=True)
class Entry:
    """One step's clips of this worker."""

    pixels: Tensor  # uint8 (b, T, H, W, 3), as painted
    attributes: Tensor  # (b, A)
    samples: Tensor  # int64 (b,): the keys of their randomness
    keep: Tensor | None = None  # uint8 (b, L, N); None where the anonymizer drops nothing

    def painted(self) -> Painted:
        """What the channel takes."""
        return Painted(to_float(self.pixels), self.keep)

    def held(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


class Replay:
    """What was painted in the last `capacity` steps, the newest last."""

    def __init__(self, capacity: int):
        self._entries: deque[tuple[int, Entry]] = deque(maxlen=max(1, capacity))

    def add(self, step: int, painted: Painted, attributes: Tensor, samples: tuple[int, ...]) -> None:
        """Keep what was painted from these samples; further parts of the same step are appended to it."""
        keep = None if painted.keep is None else painted.keep.detach().to(torch.uint8)
        entry = Entry(to_uint8(painted.pixels.detach().float()), attributes, torch.tensor(samples, device=attributes.device), keep)
        if self._entries and self._entries[-1][0] == step:
            _, before = self._entries.pop()
            entry = Entry(**{name: torch.cat([getattr(before, name), added]) for name, added in entry.held().items()})
        self._entries.append((step, entry))

    def draw(self, last: int, turn: int, key: tuple[int | str, ...]) -> Entry:
        """The newest entry at turn 0, later one of the `last` newest, drawn from `key`: the same global batch on all workers."""
        choices = min(max(1, last), len(self._entries))
        back = 0 if turn == 0 else int(torch.randint(choices, (), generator=keyed_generator(*key)))
        return self._entries[-1 - back][1]

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors that a checkpoint can hold: steps (E,) and an (E, b, …) a field."""
        if not self._entries:
            return {}
        stacked = {name: torch.stack([getattr(entry, name) for _, entry in self._entries]) for name in self._entries[-1][1].held()}
        return {"steps": torch.tensor([step for step, _ in self._entries]), **stacked}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state()` gave."""
        self._entries.clear()
        for index, step in enumerate(state["steps"].tolist() if state else ()):
            self._entries.append((step, Entry(**{name: values[index] for name, values in state.items() if name != "steps"})))
