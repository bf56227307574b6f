"""The networks that fresh attackers are: the recognizers of models/, and two that look at a clip in another way.

B batch, T frames, S side, O outputs.
"""

from typing import cast

import torch
from torch import Tensor

from stprivacy.action_task import Target
from stprivacy.config import AttackerKind, Clip, Recognizers
from stprivacy.models.checkpoints import fresh_recognizer
from stprivacy.models.recognizers import FrameCNN, Recognizer, VideoCNN, build_recognizer

MIDDLE = 0.5
"""What a pixel that doesn't change looks like in a clip of differences."""


class DifferenceCNN(VideoCNN):
    """A 3D CNN that sees nothing but what changes from frame to frame: what motion alone tells of somebody."""

    def features(self, clips: Tensor) -> Tensor:
        change = (clips[:, :, 1:] - clips[:, :, :-1]) / 2 + MIDDLE  # (B, 3, T − 1, S, S) in [0, 1]
        return super().features(change)


class FrameVotes(FrameCNN):
    """A 2D CNN that answers every frame by itself; its answers' mean counts, where `FrameCNN` answers the mean of features.

    Gives the logits of the mean probability, so that it is trained and read as any other recognizer.
    """

    def __init__(self, num_outputs: int, width: int, one_of_many: bool):
        super().__init__(num_outputs, width)
        self.one_of_many = one_of_many
        """Softmax over the outputs (one action a clip), or a sigmoid for each (attributes, several actions)."""

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2)  # (B, T, 3, S, S)
        single = frames.reshape(-1, frames.shape[2], 1, *frames.shape[3:])  # clips of one frame
        logits = self.head(self.features(single)).view(len(clips), -1, self.head.out_features).double()  # (B, T, O)
        if self.one_of_many:
            return cast(Tensor, logits.log_softmax(2).logsumexp(1)).float()  # up to a constant, which softmax takes off
        # log(mean p) − log(mean(1 − p)), in which no probability is rounded to 0 or 1.
        return (torch.nn.functional.logsigmoid(logits).logsumexp(1) - torch.nn.functional.logsigmoid(-logits).logsumexp(1)).float()


def build_attacker(kind: AttackerKind, target: Target, num_outputs: int, sizes: Recognizers, clip: Clip, fresh: bool = False) -> Recognizer:
    """An attacker's network by its kind; a `fresh` one begins with image weights where `recognizers.warm_start` names some.

    Raises UserError for sizes that such a network cannot have, ValueError for `linear`, which is none.
    """
    if kind == "difference":
        return DifferenceCNN(num_outputs, sizes.cnn_width)
    if kind == "frames":
        return FrameVotes(num_outputs, sizes.cnn_width, one_of_many=target == "action")
    if kind == "linear":
        raise ValueError("a linear attacker is no network: see evaluation/linear.py")
    return fresh_recognizer(kind, num_outputs, sizes, clip) if fresh else build_recognizer(kind, num_outputs, sizes, clip)
