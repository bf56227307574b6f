"""What is asked about actions: which one a clip shows, or which of several. It decides loss, answer and figure.

Where a video has one action, its label is a number, the loss is cross-entropy and the figure top-1. Where it has several (P-HVU), its
label is a row of 0/1, the loss is binary cross-entropy and the figure the mean over actions of average precision, as of attributes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Target = Literal["action", "actions", "privacy"]
"""What a network is to tell of a clip: its one action, its several actions, its attributes."""


@dataclass(frozen=True)
class ActionTask:
    """One of the two tasks, and how its figure is called wherever figures are kept."""

    target: Literal["action", "actions"]
    name: str
    """In metrics.json below `action`."""
    title: str
    """For people."""

    @property
    def figure(self) -> str:
        """In tables, as a metric and as a tag."""
        return f"action_{self.name}"

    @property
    def val_figure(self) -> str:
        return f"val_{self.figure}"

    def named(self, names: Iterable[str]) -> tuple[str, ...]:
        """`names`, written down for one action a clip, with this task's figure in place of top-1."""
        return tuple(name.replace(ONE_ACTION.figure, self.figure) for name in names)


ONE_ACTION = ActionTask("action", "top1", "top-1")
SEVERAL_ACTIONS = ActionTask("actions", "map", "mAP")


def task_of(names: Iterable[str]) -> ActionTask:
    """The task whose figure is among `names`: keys of metrics.json's `action`, of a floor, columns of a table, tags of a version."""
    several = {SEVERAL_ACTIONS.name, SEVERAL_ACTIONS.figure, SEVERAL_ACTIONS.val_figure}
    return ONE_ACTION if several.isdisjoint(names) else SEVERAL_ACTIONS
