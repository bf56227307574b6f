"""Where training begins: image weights named by params reach the very parameters that the players train."""

from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file

from stprivacy.config import Adversary
from stprivacy.models.checkpoints import save_weights
from stprivacy.models.recognizers import build_recognizer
from stprivacy.training.players import adversary_player, anonymizer_player, build_networks, start_from_init
from tests.unit.evaluation_files import ACTIONS, ATTRIBUTES, CLIP, tiny_params
from tests.unit.test_models_checkpoints import image_vit


def started(folder, **changes):
    """The networks before phase 1; `changes`: sections of params and their changed keys."""
    params = tiny_params()
    for section, values in changes.items():
        params = params.model_copy(update={section: getattr(params, section).model_copy(update=values)})
    save_weights(folder / "action.safetensors", build_recognizer("cnn3d", len(ACTIONS), params.recognizers, CLIP))
    for kind in ("cnn3d", "cnn2d"):
        save_weights(folder / f"privacy-{kind}.safetensors", build_recognizer(kind, len(ATTRIBUTES), params.recognizers, CLIP))
    clips = torch.rand(8, 3, CLIP.num_frames, CLIP.size, CLIP.size)
    return params, build_networks(params, len(ACTIONS), len(ATTRIBUTES), folder, clips)


def trained_blocks(player, prefix):
    """The parameters that a player's optimizer steps, of the blocks below `prefix`, by their name from there on."""
    stepped = {id(parameter) for group in player.groups for parameter in group.parameters}
    named = {name: parameter for name, parameter in player.module.named_parameters() if id(parameter) in stepped}
    return {name.removeprefix(prefix): parameter for name, parameter in named.items() if name.startswith(f"{prefix}blocks.")}


def assert_from(blocks, image):
    assert blocks
    for name, parameter in blocks.items():
        assert torch.equal(parameter, image[name]), name


def test_a_start_that_an_init_replaces_can_be_left_out_and_changes_nothing(tmp_path):
    params, with_start = started(tmp_path)
    drawn = torch.get_rng_state()
    without = build_networks(params, len(ACTIONS), len(ATTRIBUTES), tmp_path, None)
    assert params.model.identity_start
    assert torch.equal(torch.get_rng_state(), drawn)
    for name in ("anonymizer", "action"):
        left = deepcopy(getattr(without, name))
        for parameter in left.parameters():
            parameter.data.uniform_()
        save_weights(tmp_path / "init" / f"{name}.safetensors", left)
    found = []
    for networks in (with_start, without):
        start_from_init(networks, params.train, tmp_path / "init")
        parts = (networks.anonymizer, networks.action, networks.adversaries, *networks.raw_trained)
        found.append([tensor for part in parts for tensor in part.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("phase", ["init", "game"])
def test_the_anonymizer_that_is_trained_begins_with_the_image_weights(tmp_path, phase):
    plain = tiny_params().model
    image = image_vit(side=CLIP.size // plain.tubelet[1], width=plain.width, depth=plain.depth, patch=plain.tubelet[1])
    save_file(image, tmp_path / "vit.safetensors")
    params, networks = started(tmp_path, model={"mlp_ratio": 4}, train={"warm_start": str(tmp_path / "vit.safetensors")})
    blocks = trained_blocks(anonymizer_player(networks, params.train, phase, 10), "anonymizer.")
    assert_from(blocks, image)
    _, others = started(tmp_path)
    assert not torch.equal(others.anonymizer.blocks[0].attn.qkv.weight, image["blocks.0.attn.qkv.weight"])


def test_vit_adversaries_and_no_others_begin_with_the_image_weights(tmp_path):
    sizes = {"vit_width": 24, "vit_depth": 2, "vit_num_heads": 2, "vit_tubelet": (2, 8, 8)}
    image = image_vit(side=CLIP.size // 8, width=24, depth=2, patch=8)
    save_file(image, tmp_path / "vit.safetensors")
    adversaries = (Adversary(kind="vit", start="fresh"), Adversary(kind="cnn2d", start="fresh"))
    game = tiny_params().train.game.model_copy(update={"adversaries": adversaries})
    sizes |= {"warm_start": str(tmp_path / "vit.safetensors")}
    params, networks = started(tmp_path, train={"game": game}, recognizers=sizes)
    player = adversary_player(networks, params.train, 10)
    assert_from(trained_blocks(player, "0."), image)
    assert networks.adversaries[1].head.weight.shape == (len(ATTRIBUTES), networks.adversaries[1].head.in_features)
