"""Sections about networks: the anonymizer, its channel, and the sizes of recognizers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stprivacy.config.base import Count, KeepRatio, Positive, Section, Share


class Model(Section):
    """The STPrivacy anonymizer (paper §3): a video transformer with sparsification before some of its blocks."""

    tubelet: tuple[Count, Count, Count] = (2, 8, 8)
    """Frames, rows and columns of a tubelet (δT, δH, δW)."""
    width: Count = 64
    """Token dimension D."""
    depth: Count = 4
    """Transformer blocks in all; those after the last sparsification are the anonymization block."""
    num_heads: Count = 4
    mlp_ratio: Positive = 2
    sparsify_before: tuple[Annotated[int, Field(ge=0)], ...] = (1, 2)
    """Blocks (counted from 0) before which a sparsification decision is taken; empty for none."""
    keep_ratio: KeepRatio = 0.8367
    """r: share of a slice's tokens that one sparsification keeps (the paper's α); M of them leave r^M."""
    keep_bias: float = 2.0
    """Initial bias of the scorer towards keeping; the paper has 0."""
    logit_scale: Positive = 4.0
    """The scorer's logits are multiplied by this; the paper has 1."""
    input_mean: float = 0.5
    input_std: Positive = 0.25
    """The embedding sees (clip − mean) / std."""
    final_norm: bool = False
    """LayerNorm before the linear head, as in the paper; off for the identity start, which has to be linear."""
    identity_start: bool = True
    """Embedding and head begin as the principal components of tubelets and residual branches at 0: release = input."""

    @model_validator(mode="after")
    def _blocks_fit(self) -> "Model":
        late = [block for block in self.sparsify_before if block >= self.depth]
        if late:
            raise ValueError(
                f"sparsify_before names block {late[0]}, but depth {self.depth} has blocks 0 to {self.depth - 1}; "
                f"raise depth to at least {max(late) + 1} or take earlier blocks"
            )
        if list(self.sparsify_before) != sorted(set(self.sparsify_before)):
            raise ValueError("sparsify_before must rise without repeats; for example [1, 2]")
        if self.width % self.num_heads:
            fitting = self.num_heads * (self.width // self.num_heads + 1)
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}; take {fitting}")
        if self.identity_start and self.final_norm:
            raise ValueError("identity_start needs final_norm: false, since a LayerNorm cannot be undone by the head")
        return self

    @property
    def kept_share(self) -> float:
        """r^M: the share of tubelets that is left after all sparsification blocks."""
        return self.keep_ratio ** len(self.sparsify_before)


class Channel(Section):
    """The last step of release: bound to [0, 1], noise on kept tubelets, dropped tubelets filled, uint8."""

    noise: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Standard deviation of the Gaussian noise, in units of the pixel range [0, 1]."""
    fill: Share = 0.0
    """Value of every pixel of a dropped tubelet."""


NetworkKind = Literal["cnn3d", "cnn2d", "vit"]


class Recognizers(Section):
    """Sizes of the recognizers, adversaries and attackers; the kinds are named where they are used."""

    cnn_width: Count = 16
    """Channels of the first convolution; the last has four times as many."""
    vit_width: Count = 384
    vit_depth: Count = 12
    vit_num_heads: Count = 6
    vit_tubelet: tuple[Count, Count, Count] = (2, 16, 16)
    warm_start: str | None = None
    """A timm image ViT (.safetensors) that every fresh `vit` starts from, as the paper's did; null for random weights."""
