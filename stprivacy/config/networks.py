"""Sections about networks: the anonymizer, its channel, and the sizes of recognizers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stprivacy.config.base import Count, KeepRatio, Positive, Section, Share

ModelKind = Literal["stprivacy", "unet", "itnet", "collective"]


class Model(Section):
    """The anonymizer: STPrivacy's (paper §3), a video transformer with sparsification before some of its blocks, or a frame network."""

    kind: ModelKind = "stprivacy"
    """`unet` (as SPAct's), `itnet` (as VITA's) and `collective` (encoder and decoder) repaint every frame by itself and drop nothing:
    they read `base_width` alone, none of the other keys."""
    base_width: Count | None = None
    """Channels of a frame network's first layer; null for the published 64 (unet) or 32 (itnet, collective)."""
    release: Literal["tubelets", "code"] = "tubelets"
    """What leaves: kept tubelets, repainted, as in the paper; or a picture painted from a few noisy latents, which bounds what it says."""
    latents: Count = 8
    """Of `code`: latents of each slice."""
    tubelet: tuple[Count, Count, Count] = (2, 8, 8)
    """Frames, rows and columns of a tubelet (δT, δH, δW)."""
    width: Count = 64
    """Token dimension D."""
    depth: Count = 4
    """Transformer blocks in all; those after the last sparsification are the anonymization block."""
    num_heads: Count = 4
    mlp_ratio: Positive = 2
    sparsify_before: tuple[Annotated[int, Field(ge=0)], ...] = (1, 2)
    """Blocks (counted from 0) before which a sparsification decision is taken; empty for none (anonymization only)."""
    keep_ratio: KeepRatio = 0.8367
    """r: share of a slice's tokens that one sparsification keeps (the paper's α); M of them leave r^M."""
    keep_bias: float = 2.0
    """Initial bias of the scorer towards keeping; the paper has 0."""
    aggregation: Annotated[tuple[Literal["local", "spatial", "spatiotemporal"], ...], Field(min_length=1)] = (
        "local",
        "spatial",
        "spatiotemporal",
    )
    """What a scorer looks at: the token, the mean over its slice, the mean over the clip (eq. 2-5); `local` always."""
    attention: Literal["clip", "frame"] = "clip"
    """Tokens see the whole clip, or those of their own slice alone (frame-level where δT is 1)."""
    repaint: bool = True
    """Off: kept tubelets leave as they came (sparsification only)."""
    budget: Literal["per_slice", "adaptive"] = "per_slice"
    """At release: the same number of tubelets of every slice; or those whose score passes a threshold, calibrated on training
    clips so that the mean kept share is the one asked for, and how many a clip keeps follows the clip."""
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
        if "local" not in self.aggregation or len(set(self.aggregation)) < len(self.aggregation):
            raise ValueError(f"aggregation {list(self.aggregation)} needs local, and each level once; for example [local, spatial]")
        if self.attention == "frame" and "spatiotemporal" in self.aggregation:
            raise ValueError("attention: frame lets no slice see another, but aggregation has spatiotemporal; set [local, spatial]")
        _, rows, columns = self.tubelet
        if self.release == "code" and (rows != columns or rows < 2 or rows & (rows - 1)):
            raise ValueError(
                f"release: code halves frames down to tubelets, and {rows} × {columns} is no square of 2, 4, 8 …; take [2, 8, 8]"
            )
        if self.release == "code" and self.width % (2 * rows):
            raise ValueError(
                f"release: code needs a width that is a multiple of {2 * rows}; take {2 * rows * (self.width // (2 * rows) + 1)}"
            )
        if self.identity_start and self.final_norm:
            raise ValueError("identity_start needs final_norm: false, since a LayerNorm cannot be undone by the head")
        return self

    @property
    def is_code(self) -> bool:
        """Is it the bounded release?"""
        return self.kind == "stprivacy" and self.release == "code"

    @property
    def num_sparsifications(self) -> int:
        """M: 0 for a model that drops nothing."""
        return len(self.sparsify_before) if self.kind == "stprivacy" else 0

    @property
    def kept_share(self) -> float:
        """r^M: the share of tubelets that is left after all sparsification blocks."""
        return self.keep_ratio**self.num_sparsifications


class Channel(Section):
    """The last step of release: bound to [0, 1], noise on kept tubelets, dropped tubelets filled, uint8."""

    noise: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Standard deviation of the Gaussian noise, in units of the pixel range [0, 1]."""
    fill: Share = 0.0
    """Value of every pixel of a dropped tubelet."""
    grey: bool = False
    """Release brightness alone: all three colours alike."""
    codec_crf: Annotated[int, Field(ge=0, le=51)] | None = None
    """Attackers get what H.264 at this quality (23 is usual, larger is coarser) leaves of a release; null for the pixels as they are.
    Not in training, which would need its gradient."""


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
