"""Test clips for human eyes: the same ones as every method releases them, and what the anonymizer kept of them and why.

n clips, T frames, S side, L slices, N tubelets a slice (in rows and columns), M sparsification blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from stprivacy.config import BaselineKind, Params
from stprivacy.data.boxes import BoxViews, resolve_boxes
from stprivacy.data.clips import ClipViews, ShardReader
from stprivacy.data.codec import through_codec
from stprivacy.errors import UserError
from stprivacy.evaluation.methods import Method, load_method
from stprivacy.evaluation.raw_frames import raw_allowed
from stprivacy.models.anonymizer import Anonymizer, Painted, expand_keep
from stprivacy.models.anonymizers import noise_shape
from stprivacy.models.baselines import BOXED
from stprivacy.models.channel import to_float, to_uint8
from stprivacy.models.code import CodeAnonymizer
from stprivacy.secret_noise import SecretNoise

RAW = "raw"
BASELINE_MODELS, CACHE = Path("models/baselines"), Path(".cache/stprivacy/evaluate")
LEARNED_BASELINES = get_args(BaselineKind)
BATCH = 32
NEAR_RAW_DB = 20.0
"""Peak signal-to-noise ratio, against the raw clip, from which what a network has painted counts as raw frames: right after init, when it
still repeats its input, it has some 24 dB."""


@dataclass(frozen=True)
class LabelledClips:
    """Raw clips with what is true of them."""

    dataset: str
    keys: tuple[str, ...]
    actions: tuple[str, ...]
    """The action's name, a clip; the names of all where it has several."""
    attributes: np.ndarray
    """bool (n, A)."""
    attribute_names: tuple[str, ...]
    pixels: np.ndarray
    """uint8 (n, T, S, S, 3)."""
    boxes: np.ndarray | None = None
    """bool (n, T, S, S), which pixels lie in a person's box; None where no method asks."""
    several_actions: bool = False

    def caption(self, index: int) -> str:
        """What is true of a clip, in words."""
        present = [name.replace("_", " ") for name, value in zip(self.attribute_names, self.attributes[index], strict=True) if value]
        title = "actions" if self.several_actions else "action"
        return f"{title}: {self.actions[index].replace('_', ' ')} · attributes: {', '.join(present) or 'none'} · {self.keys[index]}"


@dataclass(frozen=True)
class Release:
    """Clips as one method releases them at one kept share."""

    method: str
    kept_share: float | None
    """None for a method that drops nothing."""
    pixels: np.ndarray
    """uint8 (n, T, S, S, 3)."""
    repainted: bool
    """Does no clip of these hold raw frames, in full or nearly? Else they are shown only where raw ones may be."""

    @property
    def title(self) -> str:
        return title_of(self.method, self.kept_share)

    @property
    def note(self) -> str:
        return "" if self.kept_share is None else f"kept share {self.kept_share:g}"


def title_of(method: str, kept_share: float | None) -> str:
    """How a release is called in pictures and tables."""
    return method if kept_share is None else f"{method}, kept share {kept_share:g}"


@dataclass(frozen=True)
class Decisions:
    """What each sparsification block kept, and how sure its scorer was; bool and float (n, M, L, rows, columns)."""

    kept: np.ndarray
    probabilities: np.ndarray
    """Keep probability; NaN for a tubelet that an earlier block had dropped, which nobody asks about any more."""


def spread_rows(actions: np.ndarray, count: int) -> list[int]:
    """`count` test clips, a first one of each action, actions evenly spread; further ones where there are fewer actions."""
    order = np.argsort(actions, kind="stable")
    place_in_action = np.concatenate([np.arange(number) for number in np.unique(actions, return_counts=True)[1]])
    in_turn = order[np.argsort(place_in_action, kind="stable")]  # first clips of all actions, then second ones …
    num_actions = len(np.unique(actions))
    firsts = in_turn[:num_actions]
    if count <= num_actions:
        return [int(index) for index in firsts[np.linspace(0, num_actions - 1, count).round().astype(int)]]
    return [int(index) for index in in_turn[:count]]


def pick_clips(
    params: Params, shards: Path, keys: Sequence[str] = (), count: int | None = None, split: str = "test", methods: Sequence[str] = ()
) -> LabelledClips:
    """The middle view of some test clips: those named by `keys`, else `count` of them, else all; with boxes if one of `methods` needs them.

    Raises UserError when there are no shards, or no such clip.
    """
    reader, attack = ShardReader(shards, split), params.evaluate.attack
    unknown = [key for key in keys if key not in reader.keys]
    if unknown:
        raise UserError(f"{unknown[0]}: no such {split} clip in {shards}; keys look like {reader.keys[0]}")
    if keys:
        rows = [reader.keys.index(key) for key in keys]
    else:
        rows = list(range(len(reader))) if count is None else spread_rows(reader.foremost, min(count, len(reader)))
    views = ClipViews(reader, params.clip, attack.num_clips, attack.num_crops)
    middle = attack.num_clips * attack.num_crops // 2
    boxes = None
    if set(BOXED) & set(methods):
        found = BoxViews(views, resolve_boxes(params.evaluate.boxes, params.dataset, CACHE), CACHE)
        boxes = np.stack([found[row][middle] for row in rows])
    return LabelledClips(
        dataset=reader.info.name,
        keys=tuple(reader.keys[row] for row in rows),
        actions=tuple(reader.action_name(row) for row in rows),
        attributes=np.stack([reader.attributes_of(row, views.places(row)[middle][0], params.clip.num_frames) for row in rows]) > 0.5,
        attribute_names=reader.info.attributes,
        pixels=np.stack([views[row][middle] for row in rows]),
        boxes=boxes,
        several_actions=reader.info.several_actions,
    )


@dataclass(frozen=True)
class Releaser:
    """A method at a kept share, ready to release clips."""

    name: str
    kept_share: float | None
    method: Method | None
    """None for raw video, which is shown as it is."""

    @property
    def title(self) -> str:
        return title_of(self.name, self.kept_share)

    @torch.inference_mode()
    def show(self, clips: np.ndarray, boxes: np.ndarray | None = None) -> Release:
        """Clips uint8 (n, T, S, S, 3) as they are released, with boxes (n, T, S, S) for a method that hides those.

        Noise is secret and drawn anew each time. Raises UserError where boxes are needed and not given.
        """
        if self.method is None:
            return Release(self.name, None, clips, repainted=False)
        stream, repainted = SecretNoise(), self.method.repaints
        channel, share = self.method.channel, 1.0 if self.kept_share is None else self.kept_share
        released = np.empty_like(clips)
        for first in range(0, len(clips), BATCH):
            batch = to_float(torch.from_numpy(clips[first : first + BATCH]))
            shape = noise_shape(self.method.anonymizer, channel, batch.shape[1:])
            noise = None if shape is None else stream.normal((len(batch), *shape))
            masks = None if boxes is None else torch.from_numpy(boxes[first : first + BATCH])
            painted, left = self.method.release(batch, share, noise, masks)
            repainted = repainted and not near_raw(painted, batch, self.method.tubelet).any()
            shown = to_uint8(left).numpy()
            released[first : first + len(batch)] = shown if channel.codec_crf is None else through_codec(shown, channel.codec_crf)
        return Release(self.name, self.kept_share, released, repainted)


def near_raw(painted: Painted, raw: torch.Tensor, tubelet: tuple[int, int, int]) -> torch.Tensor:
    """Which clips come out of a network much as they went in: bool (B,); `raw` (B, 3, T, H, W) in [0, 1]. Noise isn't counted in."""
    error = (painted.pixels.float().clamp(0, 1) - raw).square().mean(1, keepdim=True)  # (B, 1, T, H, W)
    shape = raw.shape[-2], raw.shape[-1]
    kept = torch.ones_like(error) if painted.keep is None else expand_keep(painted.keep.float(), tubelet, shape)
    mean = (error * kept).flatten(1).sum(1) / kept.flatten(1).sum(1).clamp_min(1)
    return -10 * torch.log10(mean) >= NEAR_RAW_DB


def releasers(params: Params, model: Path, methods: Sequence[str], kept_shares: Sequence[float]) -> list[Releaser]:
    """The methods named, one that drops tubelets at each kept share; `model`: where stprivacy's is.

    Raises UserError for an unknown method, and for a model that isn't there or was made for other clips.
    """
    found = []
    for name in methods:
        folder = BASELINE_MODELS / name / "anonymizer" if name in LEARNED_BASELINES else model
        method = None if name == RAW else load_method(name, folder, params.clip, params.channel)
        shares = kept_shares if method is not None and method.num_sparsifications else (None,)
        found += [Releaser(name, share, method) for share in shares]
    return found


def presentable(params: Params, found: Sequence[Releaser], clips: LabelledClips) -> tuple[list[Releaser], list[str]]:
    """Those whose releases of `clips` may be shown, and the titles of the others: they hold raw frames of people whom nobody has asked.

    Raises UserError when none is left.
    """
    if raw_allowed(params):
        return list(found), []
    shown = [one for one in found if one.method and one.method.repaints and one.show(clips.pixels, clips.boxes).repainted]
    left_out = [one.title for one in found if one not in shown]
    if not shown:
        raise UserError(
            f"{', '.join(left_out)}: can hold raw frames, and {params.dataset.name} shows real people; take a trained model, or set "
            "tracking.log_raw_clips: true in params.yaml where they may be seen"
        )
    return shown, left_out


def methods_of(params: Params) -> list[str]:
    """All methods of an experiment but raw video: filters, then learned baselines, the anonymizer last."""
    named = [name for name in (*params.evaluate.methods, *params.baselines.methods) if name != RAW]
    return sorted(dict.fromkeys(named), key=lambda name: (name == "stprivacy", name in LEARNED_BASELINES))


def load_learned(params: Params, model: Path) -> Anonymizer | CodeAnonymizer:
    """The anonymizer of a folder, for its decisions. Raises UserError for one of other clips, and for one that drops nothing."""
    method = load_method("stprivacy", model, params.clip, params.channel)
    if not method.num_sparsifications or not isinstance(method.anonymizer, Anonymizer | CodeAnonymizer):
        raise UserError(f"{model}: has no sparsification, so it scores nothing; take `stprivacy picture grid`")
    return method.anonymizer


@torch.inference_mode()
def decisions(anonymizer: Anonymizer | CodeAnonymizer, clips: np.ndarray, kept_share: float) -> Decisions:
    """What the deployed anonymizer keeps of clips uint8 (n, T, S, S, 3), block by block, with the probabilities behind it.

    The deployed path gathers what is kept; with its decisions given, the training path computes the same tokens and says the
    probabilities, too. Raises UserError for a kept share outside (0, 1).
    """
    if not 0 < kept_share < 1:
        raise UserError(f"--kept-share {kept_share:g}: at 1 nothing is dropped and nothing is scored; take a share between 0 and 1")
    ratio = kept_share ** (1 / anonymizer.num_sparsifications)
    slices, rows, columns = anonymizer.grid
    kept, probabilities = [], []
    for first in range(0, len(clips), BATCH):
        batch = to_float(torch.from_numpy(clips[first : first + BATCH]))
        tokens = anonymizer.embed(batch)
        taken = anonymizer.eval().encode(tokens, ratio).decisions  # M of (B, L, N)
        scored = anonymizer.train().encode(tokens, ratio, decisions=[one.flatten(1) for one in taken]).probabilities
        kept.append(torch.stack(taken, 1).bool().numpy())
        probabilities.append(torch.stack(scored, 1).numpy())
    anonymizer.eval()
    shape = (len(clips), anonymizer.num_sparsifications, slices, rows, columns)
    keep = np.concatenate(kept).reshape(shape)
    asked = np.concatenate([np.ones_like(keep[:, :1]), keep[:, :-1]], axis=1)
    return Decisions(keep, np.where(asked, np.concatenate(probabilities).reshape(shape), np.nan))
