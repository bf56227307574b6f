"""Weights in and out: whole files or none, no code run, and what does not fit is refused by name."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from stprivacy.config import Channel, Clip, Model, Recognizers
from stprivacy.errors import UserError
from stprivacy.models import checkpoints
from stprivacy.models.anonymizer import Anonymizer
from stprivacy.models.recognizers import VideoTransformer

CLIP = Clip(num_frames=4, size=32)
MODEL = Model(tubelet=(2, 8, 8), width=24, depth=2, num_heads=2, mlp_ratio=4, sparsify_before=(1,), identity_start=False)
CONFIG = {"model": MODEL.model_dump(), "channel": Channel(noise=0.1).model_dump(), "clip": CLIP.model_dump(), "dataset": "made"}
CLIPS = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    anonymizer = Anonymizer(MODEL, CLIP).eval()
    checkpoints.save_model(tmp_path / "model", anonymizer, CONFIG)
    return tmp_path / "model", anonymizer


def image_vit(side: int = 4, width: int = 24, depth: int = 2, patch: int = 8, class_tokens: int = 1) -> dict[str, torch.Tensor]:
    """A state dict with timm's names for an image ViT on side × side patches."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    state = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, class_tokens + side * side, width),
        "patch_embed.proj.weight": draw(width, 3, patch, patch),
        "patch_embed.proj.bias": draw(width),
        "norm.weight": draw(width),
        "norm.bias": draw(width),
        "head.weight": draw(1000, width),
        "head.bias": draw(1000),
    }
    block = {f"norm{i}.{what}": (width,) for i in (1, 2) for what in ("weight", "bias")}
    block |= {"attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,)}
    block |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
    block |= {"mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,)}
    block |= {"mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,)}
    return state | {f"blocks.{index}.{name}": draw(*shape) for index in range(depth) for name, shape in block.items()}


# ---------------------------------------------------------------------------------------------------- our own files


def test_a_loaded_anonymizer_releases_what_the_saved_one_did(saved):
    folder, anonymizer = saved
    loaded, channel = checkpoints.load_anonymizer(folder)
    assert not loaded.training
    assert channel == Channel(noise=0.1)
    with torch.no_grad():
        assert torch.equal(loaded(CLIPS, 0.5).pixels, anonymizer(CLIPS, 0.5).pixels)


def test_a_crash_while_writing_leaves_the_file_before_it(saved, monkeypatch):
    folder, anonymizer = saved
    before = (folder / "anonymizer.safetensors").read_bytes()

    def crash(state, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_file", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_model(folder, anonymizer, CONFIG)
    assert (folder / "anonymizer.safetensors").read_bytes() == before


def test_weights_kept_in_bf16_are_written_in_fp32(tmp_path):
    network = torch.nn.Linear(3, 2).bfloat16()
    checkpoints.save_weights(tmp_path / "weights.safetensors", network)
    written = load_file(tmp_path / "weights.safetensors")
    assert written["weight"].dtype == torch.float32
    assert torch.equal(written["weight"], network.weight.float())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("head_recon.bias"), "head_recon.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is unknown"),
        (lambda state: state.update(pos_embed=torch.zeros(1, 5, 24)), r"pos_embed has shape \(1, 5, 24\), here it is \(1, 32, 24\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(saved, change, named):
    folder, _ = saved
    state = load_file(folder / "anonymizer.safetensors")
    change(state)
    save_file(state, folder / "anonymizer.safetensors")
    with pytest.raises(UserError, match=rf"anonymizer.safetensors: tensor {named}"):
        checkpoints.load_anonymizer(folder)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_a_file_that_holds_no_weights_is_refused(saved, content):
    folder, _ = saved
    if content is None:
        (folder / "anonymizer.safetensors").unlink()
    else:
        (folder / "anonymizer.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="anonymizer.safetensors"):
        checkpoints.load_anonymizer(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"a"', "{}", json.dumps(CONFIG | {"model": {"width": -1}}), json.dumps(CONFIG | {"clip": {"x": 1}})]
)
def test_a_configuration_that_is_none_is_refused(saved, text):
    folder, _ = saved
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json"):
        checkpoints.load_anonymizer(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="config.json: no such file"):
        checkpoints.load_anonymizer(tmp_path)


# ---------------------------------------------------------------------------------------------------- image ViTs


def fresh() -> Anonymizer:
    torch.manual_seed(0)
    return Anonymizer(MODEL, CLIP)


def test_an_averaged_kernel_sees_a_still_clip_as_the_image_network_sees_the_picture():
    state, anonymizer = image_vit(), fresh()
    anonymizer.load_state_dict(checkpoints.from_timm(state, anonymizer), strict=False)
    picture = torch.rand(1, 3, 32, 32)
    expected = torch.nn.functional.conv2d(picture, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    tokens = anonymizer.patch_embed(picture[:, :, None].expand(-1, -1, 4, -1, -1))
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2).repeat(1, 2, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("class_tokens", [0, 1, 2])  # 2: DeiT's distillation token
def test_positions_lose_class_tokens_and_are_the_same_in_every_slice(class_tokens):
    state, anonymizer = image_vit(class_tokens=class_tokens), fresh()
    table = checkpoints.from_timm(state, anonymizer)["pos_embed"]
    expected = state["pos_embed"][:, class_tokens:]
    assert torch.equal(table, torch.cat([expected, expected], 1))


def test_positions_of_another_grid_are_resized_keeping_what_is_flat_and_what_is_a_ramp():
    state, anonymizer = image_vit(side=8), fresh()
    ramp = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 8, 24)
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), ramp.reshape(1, 64, 24)], 1)
    table = checkpoints.from_timm(state, anonymizer)["pos_embed"].view(2, 4, 4, 24)
    assert torch.equal(table[0], table[1])
    torch.testing.assert_close(table, table[:, :, :1, :1].expand_as(table))
    torch.testing.assert_close(table[0, 1:3, 0, 0], torch.tensor([2.5, 4.5]))  # pixel centres of a grid of half the size


def test_blocks_are_taken_as_they_are_and_the_rest_is_left(tmp_path):
    state, anonymizer = image_vit(), fresh()
    save_file(state, tmp_path / "vit.safetensors")
    left = checkpoints.warm_start(tmp_path / "vit.safetensors", anonymizer)
    assert torch.equal(anonymizer.blocks[1].mlp.fc2.weight, state["blocks.1.mlp.fc2.weight"])
    assert {name.split(".")[0] for name in left} == {"head_recon", "score_predictor"}


def test_a_vit_recognizer_can_be_started_too(tmp_path):
    recognizer = VideoTransformer(5, Recognizers(vit_width=24, vit_depth=2, vit_num_heads=2, vit_tubelet=(2, 8, 8)), CLIP)
    torch.save({"model": image_vit()}, tmp_path / "deit.pth")
    left = checkpoints.warm_start(tmp_path / "deit.pth", recognizer)
    assert {name.split(".")[0] for name in left} == {"fc_norm", "head"}


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (image_vit(depth=3), "blocks.2.attn.proj.bias is unknown"),
        (image_vit(depth=1), "blocks.1.attn.proj.bias is missing"),
        (image_vit(width=48), "blocks.0.attn.proj.bias has shape"),
        (image_vit(patch=16), "patch_embed.proj.weight has shape"),
        ({**image_vit(), "pos_embed": torch.zeros(1, 22, 24)}, "pos_embed has 22 positions"),
        ({**image_vit(), "adapter.weight": torch.zeros(1)}, "adapter.weight is unknown"),
        ({"conv1.weight": torch.zeros(1)}, "patch_embed.proj.weight is missing"),
    ],
)
def test_an_image_network_that_does_not_fit_is_refused_by_name(state, named, tmp_path):
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=f"vit.safetensors: tensor {named}"):
        checkpoints.warm_start(tmp_path / "vit.safetensors", fresh())


# ---------------------------------------------------------------------------------------------------- foreign files


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize(
    "write",
    [lambda path: torch.save({"model": Bomb()}, path), lambda path: path.write_bytes(pickle.dumps(Bomb()))],
    ids=["in torch's archive", "plain"],
)
def test_a_pickle_is_never_run(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="weights.pth"):
        checkpoints.warm_start(tmp_path / "weights.pth", fresh())
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, {"model": {"a": 1}}])
def test_a_checkpoint_of_something_else_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="weights.pt: expected tensors by name"):
        checkpoints.warm_start(tmp_path / "weights.pt", fresh())


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors"])
def test_a_missing_warm_start_is_named(name, tmp_path):
    with pytest.raises(UserError, match=f"{name}: no such file"):
        checkpoints.warm_start(tmp_path / name, fresh())
