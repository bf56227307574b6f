"""Weights in and out: safetensors of our own, and warm starts from timm's image ViTs and the authors' modules. Never a pickle."""

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import Channel, Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Anonymizer

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
    own = module.state_dict()
    for name in own.keys() | state.keys():
        if name not in state:
            raise UserError(f"{origin}: tensor {name} is missing; the file is of another kind of network")
        if name not in own:
            raise UserError(f"{origin}: tensor {name} is unknown here; the file is of another kind of network")
        if own[name].shape != state[name].shape:
            raise UserError(f"{origin}: tensor {name} has shape {tuple(state[name].shape)}, here it is {tuple(own[name].shape)}; use the params it was made with")
    module.load_state_dict(state)


def save_model(folder: Path, anonymizer: nn.Module, config: dict[str, Any]) -> None:
    """Write `anonymizer.safetensors` and `config.json` (sections model, channel, clip and what else the caller gives)."""
    save_weights(folder / WEIGHTS, anonymizer)
    temporary = folder / (CONFIG + ".part")
    temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, folder / CONFIG)


def load_anonymizer(folder: Path) -> tuple[Anonymizer, Channel]:
    """The anonymizer of a folder, in evaluation mode, and its channel. Raises UserError on a missing or foreign file."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        sections = Model(**config["model"]), Channel(**config["channel"]), Clip(**config["clip"])
    except FileNotFoundError:
        raise UserError(f"{folder / CONFIG}: no such file; run the stage that makes it (`dvc repro train`) or mend the path") from None
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{folder / CONFIG}: not a model's configuration ({' '.join(str(error).split())[:120]}); make it anew") from None
    model, channel, clip = sections
    anonymizer = Anonymizer(model, clip)
    load_weights(folder / WEIGHTS, anonymizer)
    return anonymizer.eval(), channel


# ---------------------------------------------------------------------------------------------------- warm starts


def warm_start(path: Path, module: nn.Module, inflation: Literal["averaging", "central"] = "averaging") -> list[str]:
    """Start a tubelet transformer from a file of timm image-ViT or authors' weights; gives the names that stay as they were.

    Raises UserError naming a tensor that should fit and does not.
    """
    state = read_tensors(path)
    image = "patch_embed.proj.weight" in state and state["patch_embed.proj.weight"].ndim == 4
    fitted = from_timm(state, module, inflation) if image else state
    return load_partly(fitted, module, str(path))


def from_timm(state: dict[str, Tensor], module: nn.Module, inflation: Literal["averaging", "central"]) -> dict[str, Tensor]:
    """Weights of an image ViT/DeiT as weights of a tubelet transformer (2D → 3D inflation; class token and classifier dropped).

    `averaging`: the kernel over δT frames, divided by δT; `central`: the kernel at the middle frame, 0 elsewhere. The
    position table loses the class token, is resized bicubically to the grid of tubelets and repeated for every slice.
    """
    own = module.state_dict()
    frames, rows, columns = own["patch_embed.proj.weight"].shape[2:]
    fitted = {name: tensor for name, tensor in state.items() if re.match(r"(patch_embed|blocks|pos_embed)", name)}
    kernel = state["patch_embed.proj.weight"]
    if kernel.shape[2:] != (rows, columns):
        raise UserError(f"patch_embed.proj.weight: patches of {tuple(kernel.shape[2:])}, the tubelet has {(rows, columns)}; take weights of that patch size")
    if inflation == "averaging":
        fitted["patch_embed.proj.weight"] = kernel[:, :, None].repeat(1, 1, frames, 1, 1) / frames
    else:
        inflated = kernel.new_zeros(*kernel.shape[:2], frames, rows, columns)
        inflated[:, :, frames // 2] = kernel
        fitted["patch_embed.proj.weight"] = inflated
    if "pos_embed" in state:
        fitted["pos_embed"] = _resized_positions(state["pos_embed"], own["pos_embed"].shape[1], _num_slices(module))
    return fitted


def load_partly(state: dict[str, Tensor], module: nn.Module, origin: str) -> list[str]:
    """Load every tensor that the module has; gives the module's names that the state lacks. Raises UserError on a wrong shape or an unknown name."""
    own = module.state_dict()
    for name, tensor in state.items():
        if name not in own:
            raise UserError(f"{origin}: tensor {name} is unknown here; is it of a deeper network than params say?")
        if own[name].shape != tensor.shape:
            raise UserError(f"{origin}: tensor {name} has shape {tuple(tensor.shape)}, here it is {tuple(own[name].shape)}; set width and depth to its own")
    module.load_state_dict(state, strict=False)
    return sorted(own.keys() - state.keys())


def _resized_positions(table: Tensor, num_tokens: int, num_slices: int) -> Tensor:
    """(1, 1 + P, D) of an image with a class token → (1, L·N, D)."""
    table = table[:, 1:] if int(table.shape[1] ** 0.5) ** 2 != table.shape[1] else table
    old, new = round(table.shape[1] ** 0.5), round((num_tokens // num_slices) ** 0.5)
    grid = table.view(1, old, old, -1).permute(0, 3, 1, 2)
    if old != new:
        grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2).repeat(1, num_slices, 1)


def _num_slices(module: nn.Module) -> int:
    slices = getattr(module, "num_slices", None)
    if not isinstance(slices, int):
        raise TypeError(f"{type(module).__name__} has no num_slices")
    return slices
