"""Weights in and out: safetensors of our own, and warm starts from timm's image ViTs and the authors' modules. Never a pickle."""

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import Channel, Clip, Model, NetworkKind, Recognizers
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.anonymizers import AnyAnonymizer, build_anonymizer
from stprivacy.models.recognizers import Recognizer, VideoTransformer, build_recognizer

CLASSIFIER = ("cls_token", "dist_token", "norm.", "fc_norm.", "pre_logits.", "head.", "head_dist.")
"""What an image ViT has beside patches, positions and blocks: nothing here wants it."""

WEIGHTS, CONFIG = "anonymizer.safetensors", "config.json"


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a module's weights in fp32; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().float().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    temporary = path.with_name(path.name + ".part")
    save_file(state, temporary)
    os.replace(temporary, path)


def load_weights(path: Path, module: nn.Module) -> None:
    """Load what `save_weights` wrote. Raises UserError that names the file and the first tensor that does not fit."""
    load_state(read_tensors(path), module, str(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError when it is missing or is none."""
    if not path.exists():
        raise UserError(f"{path}: no such file; run the stage that makes it (`dvc repro`) or mend the path")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error}); make it anew") from None


def load_state(state: dict[str, Tensor], module: nn.Module, origin: str) -> None:
    """Load tensors name for name. Raises UserError naming the first that is missing, unknown or of another shape."""
    _refuse_what_does_not_fit(state, module, origin)
    missing = sorted(module.state_dict().keys() - state.keys())
    if missing:
        raise UserError(f"{origin}: tensor {missing[0]} is missing; use the params that the file was made with")
    module.load_state_dict(state)


def _refuse_what_does_not_fit(state: dict[str, Tensor], module: nn.Module, origin: str) -> None:
    own = module.state_dict()
    for name, tensor in sorted(state.items()):
        if name not in own:
            raise UserError(f"{origin}: tensor {name} is unknown here; use the params that the file was made with")
        if own[name].shape != tensor.shape:
            shapes = f"has shape {tuple(tensor.shape)}, here it is {tuple(own[name].shape)}"
            raise UserError(f"{origin}: tensor {name} {shapes}; use the params that the file was made with")


def save_model(folder: Path, anonymizer: nn.Module, config: dict[str, Any]) -> None:
    """Write `anonymizer.safetensors` and `config.json` (sections model, channel, clip and what else the caller gives)."""
    save_weights(folder / WEIGHTS, anonymizer)
    temporary = folder / (CONFIG + ".part")
    temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, folder / CONFIG)


def load_anonymizer(folder: Path) -> tuple[AnyAnonymizer, Channel]:
    """The anonymizer of a folder, in evaluation mode, and its channel. Raises UserError on a missing or foreign file."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        sections = Model(**config["model"]), Channel(**config["channel"]), Clip(**config["clip"])
    except FileNotFoundError:
        raise UserError(f"{folder / CONFIG}: no such file; run the stage that makes it (`dvc repro train`) or mend the path") from None
    except (ValueError, KeyError, TypeError) as error:  # no JSON, no such section, or a section that is not valid
        raise UserError(f"{folder / CONFIG}: not a model's configuration ({' '.join(str(error).split())[:120]}); make it anew") from None
    model, channel, clip = sections
    anonymizer = build_anonymizer(model, clip)
    load_weights(folder / WEIGHTS, anonymizer)
    return anonymizer.eval(), channel


# ---------------------------------------------------------------------------------------------------- warm starts


def warm_start(path: Path, module: Anonymizer | VideoTransformer) -> list[str]:
    """Start a tubelet transformer from a file of timm image-ViT or authors' weights; gives the names that stay as they were.

    `path`: .safetensors, or a checkpoint of tensors alone (.pt, .pth), with weights at the top or under `model`. The patch
    embedding tells which it is: an image ViT's has four dimensions. Raises UserError naming a tensor that does not fit.
    """
    state = read_tensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}  # what DistributedDataParallel leaves
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None:
        raise UserError(f"{path}: tensor patch_embed.proj.weight is missing; take weights of a ViT or of the authors' modules")
    if kernel.ndim == 5:
        fitted = from_authors(state, module, str(path))
        load_state(fitted, module, str(path))
        return []
    fitted = from_timm(state, module, str(path))
    module.load_state_dict(fitted, strict=False)
    return sorted(module.state_dict().keys() - fitted.keys())


def fresh_recognizer(kind: NetworkKind, num_outputs: int, sizes: Recognizers, clip: Clip) -> Recognizer:
    """A recognizer that has seen no clip; a `vit` begins with the image weights of `recognizers.warm_start` where that names some."""
    network = build_recognizer(kind, num_outputs, sizes, clip)
    if sizes.warm_start and isinstance(network, VideoTransformer):
        warm_start(Path(sizes.warm_start), network)
    return network


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint, read without running any code in it. Raises UserError for anything but tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; mend the path") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a checkpoint of tensors alone ({reason}); save its state dict as .safetensors") from None
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path}: expected tensors by name, or those under `model`; save the state dict alone")
    return state


def from_authors(state: dict[str, Tensor], module: nn.Module, origin: str = "the authors' weights") -> dict[str, Tensor]:
    """Weights of the authors' `STPrivacy` or `VisionTransformer` under our names, which differ in `head_new` alone.

    Raises UserError naming the first tensor that does not fit `module`.
    """
    renamed = {name.replace("head_new.", "head."): tensor for name, tensor in state.items()}
    _refuse_what_does_not_fit(renamed, module, origin)
    return renamed


def from_timm(
    state: dict[str, Tensor], module: Anonymizer | VideoTransformer, origin: str = "the image ViT's weights"
) -> dict[str, Tensor]:
    """Weights of an image ViT or DeiT as those of a tubelet transformer: patches, positions and blocks; its classifier is left.

    The patch kernel is laid over all δT frames and divided by δT. The position table loses the class token, is resized bicubically
    to the grid of tubelets and repeated for every slice. Raises UserError naming the first tensor that does not fit `module`, or that
    is not there.
    """
    own = module.state_dict()
    fitted = {name: tensor for name, tensor in state.items() if not name.startswith(CLASSIFIER)}
    missing = sorted(name for name in own if name.startswith(("patch_embed.", "pos_embed", "blocks.")) and name not in fitted)
    if missing:
        raise UserError(f"{origin}: tensor {missing[0]} is missing; set model.depth to the depth of these weights")
    fitted["patch_embed.proj.weight"] = _inflated(fitted["patch_embed.proj.weight"], own["patch_embed.proj.weight"].shape[2])
    fitted["pos_embed"] = _resized_positions(fitted["pos_embed"], module.grid, origin)
    _refuse_what_does_not_fit(fitted, module, origin)
    return fitted


def _inflated(kernel: Tensor, frames: int) -> Tensor:
    """(D, 3, δH, δW) → (D, 3, δT, δH, δW)."""
    return kernel[:, :, None].repeat(1, 1, frames, 1, 1) / frames


def _resized_positions(table: Tensor, grid: tuple[int, int, int], origin: str) -> Tensor:
    """Image positions (1, class tokens + P, D), P a square number → (1, L·N, D) for a `grid` of slices, rows and columns."""
    num_slices, *size = grid
    old = math.isqrt(table.shape[1])
    if table.shape[1] - old**2 > 2:
        raise UserError(f"{origin}: tensor pos_embed has {table.shape[1]} positions, not a square of patches and at most two class tokens")
    positions = table[:, table.shape[1] - old**2 :].reshape(1, old, old, -1).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    if size != [old, old]:
        positions = F.interpolate(positions.float(), size=size, mode="bicubic", align_corners=False)
    return positions.flatten(2).transpose(1, 2).repeat(1, num_slices, 1)
