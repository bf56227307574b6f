"""The learned baselines: sizes as published, one frame at a time, the same interface and the same game as the STPrivacy anonymizer."""

import pytest
import torch
from torch.nn import functional as F

from stprivacy.config import Channel, Clip, Model, Params, Recognizers, load_params
from stprivacy.errors import UserError
from stprivacy.models.anonymizers import LEARNED, build_anonymizer, model_folder
from stprivacy.models.channel import transmit
from stprivacy.models.checkpoints import load_anonymizer, save_model
from stprivacy.models.frame_networks import FrameAnonymizer
from stprivacy.models.recognizers import build_recognizer
from stprivacy.release.clips import release
from stprivacy.training.engine import TorchEngine
from stprivacy.training.players import adversary_player, anonymizer_player, build_networks
from stprivacy.training.task import Game, Networks
from tests.distributed.two_workers import CLIP, tiny_train
from tests.unit.test_task import one_batch

KINDS = ("unet", "itnet", "collective")


def build(kind: str, clip: Clip = CLIP, width: int = 4) -> FrameAnonymizer:
    torch.manual_seed(0)
    found = build_anonymizer(Model(kind=kind, base_width=width), clip)
    assert isinstance(found, FrameAnonymizer)
    return found


def frame_game(kind: str, **changes) -> Game:
    train = tiny_train(engine="torch", **changes)
    sizes, anonymizer = Recognizers(cnn_width=4), build(kind)
    action, reference = (build_recognizer("cnn3d", 3, sizes, CLIP) for _ in range(2))
    adversaries = torch.nn.ModuleList(build_recognizer(adversary.kind, 2, sizes, CLIP) for adversary in train.game.adversaries)
    networks = Networks(anonymizer.train(), action, adversaries, reference.requires_grad_(False))
    return Game(networks, train, Channel(), CLIP, sizes, torch.full((2,), 0.5))


def count(kind: str) -> int:
    return sum(parameter.numel() for parameter in build_anonymizer(Model(kind=kind), Clip()).parameters())


def test_the_published_unet_has_the_parameters_of_its_layer_list():
    def convolution(channels, out):  # 3 × 3 without bias, then weight and bias of the norm
        return 9 * channels * out + 2 * out

    pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    pairs += [(1024, 512), (512, 256), (512, 256), (256, 128), (256, 128), (128, 64), (128, 64), (64, 64)]
    assert count("unet") == sum(convolution(*pair) for pair in pairs) + (64 * 3 + 3)


def test_the_published_itnet_has_the_parameters_of_its_layer_list():
    def convolution(kernel, channels, out, normed=True):
        return kernel**2 * channels * out + out + (2 * out if normed else 0)

    ends = convolution(9, 3, 32) + convolution(9, 32, 3, normed=False)
    strides, ups = convolution(3, 32, 64) + convolution(3, 64, 128), convolution(3, 128, 64) + convolution(3, 64, 32)
    residual = 5 * 2 * convolution(3, 128, 128)
    assert count("itnet") == ends + strides + residual + ups


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 18, 30, 48])
def test_a_frame_network_drops_nothing_and_keeps_shape_and_range(kind, size):
    clips = torch.rand(2, 3, 3, size, size)
    painted = build(kind, Clip(num_frames=3, size=size))(clips)
    assert painted.keep is None and painted.decisions == painted.probabilities == ()
    assert painted.pixels.shape == clips.shape
    assert 0 <= painted.pixels.min() <= painted.pixels.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_frame_s_release_depends_on_that_frame_alone(kind, training):
    network, clips = build(kind).train(training), torch.rand(3, 3, 4, 16, 16)
    alone = network(clips[1:2, :, 2:3]).pixels
    torch.testing.assert_close(network(clips).pixels[1:2, :, 2:3], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_a_frame_network_is_learned(kind):
    # At 16 pixels the coarsest maps of a UNet are of one pixel; at 32 none is.
    network = build(kind, Clip(num_frames=4, size=32))
    (network(torch.rand(2, 3, 4, 32, 32)).pixels * torch.rand(2, 3, 4, 32, 32)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_frame_network_refuses_a_keep_ratio_and_clips_too_small_for_it():
    with pytest.raises(UserError, match=r"keep ratio 0\.5: unet drops no tubelets"):
        build("unet")(torch.rand(1, 3, 4, 16, 16), 0.5)
    with pytest.raises(UserError, match=r"clip\.size = 8: model\.kind itnet needs at least 16"):
        build("itnet", Clip(num_frames=4, size=8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_network_is_saved_loaded_and_released_as_the_anonymizer_is(kind, tmp_path):
    network = build(kind)
    config = {"model": network.config.model_dump(mode="json"), "channel": Channel(noise=0).model_dump(), "clip": CLIP.model_dump()}
    save_model(tmp_path, network, config)
    loaded, channel = load_anonymizer(tmp_path)
    clips = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
    shown = release(loaded, channel, clips.numpy())
    floats = clips.permute(0, 4, 1, 2, 3).float() / 255
    expected = transmit(network.eval()(floats), channel, network.tubelet, None)
    assert (torch.from_numpy(shown).permute(0, 4, 1, 2, 3).float() / 255 - expected).abs().max() < 1.5 / 255
    assert release(loaded, channel, clips.numpy(), keep_ratio=1.0).shape == clips.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_network_plays_the_game_and_its_loss_falls(kind):
    game = frame_game(kind)
    anonymizer = TorchEngine(anonymizer_player(game.networks, game.train, "game", 10), game.train)
    adversary = TorchEngine(adversary_player(game.networks, game.train, 20), game.train)
    seen = []
    for _ in range(3):
        seen.append(anonymizer.update(game.anonymizer_loss, game.look_ahead([one_batch()])))
        seen[-1] |= adversary.update(game.adversary_loss, game.recall(0, 0, 1)[0:1])
    assert seen[-1]["loss/total"] < seen[0]["loss/total"]
    assert seen[-1]["attack/0-cnn3d/bce_replayed"] < seen[0]["attack/0-cnn3d/bce_replayed"]
    assert seen[0]["loss/ratio"] == seen[0]["loss/polarisation"] == 0
    assert seen[0]["keep/share"] == 1


def test_init_teaches_a_frame_network_to_reconstruct():
    game = frame_game("unet")
    engine, batch = TorchEngine(anonymizer_player(game.networks, game.train, "init", 10), game.train), one_batch()
    first = engine.update(game.init_loss, [batch])
    with torch.no_grad():
        painted = game.networks.anonymizer(batch.clips)
    assert F.mse_loss(painted.pixels, batch.clips) < first["loss/reconstruction"]


def test_a_replay_without_keep_masks_goes_through_a_checkpoint():
    game, other = frame_game("unet"), frame_game("unet")
    for step in range(2):
        game.anonymizer_loss(one_batch(step))
    other.replay.load(game.replay.state())
    assert "keep" not in game.replay.state()
    found = other.recall(1, 1, 2)
    for mine, theirs in zip(game.recall(1, 1, 2), found, strict=True):
        assert torch.equal(mine.clips[1], theirs.clips[1])


def test_the_game_of_a_frame_network_starts_without_the_identity_start(project_root, tmp_path, monkeypatch):
    params = load_params(project_root / "params" / "vp-synth-tiny.yaml")
    assert params.model.identity_start
    monkeypatch.setattr("stprivacy.training.players.load_weights", lambda path, module: None)
    networks = build_networks(baseline(params), 8, 5, tmp_path, torch.rand(2, 3, 8, 32, 32))
    assert isinstance(networks.anonymizer, FrameAnonymizer)
    assert anonymizer_player(networks, params.train, "game", 10).groups[0].parameters


def baseline(params: Params) -> Params:
    narrow = params.model_copy(update={"baselines": params.baselines.model_copy(update={"methods": ("unet",), "base_width": 4})})
    return narrow.for_baseline("unet")


def test_a_baseline_s_experiment_differs_in_its_model_alone(project_root):
    params = load_params(project_root / "params" / "vp-synth-tiny.yaml")
    theirs = baseline(params)
    assert (theirs.model.kind, theirs.model.base_width, theirs.model.num_sparsifications) == ("unet", 4, 0)
    assert (theirs.train, theirs.channel, theirs.clip) == (params.train, params.channel, params.clip)


@pytest.mark.parametrize("experiment", ["vp-synth", "vp-synth-baselines", "vp-synth-full", "weizmann", "folder"])
def test_the_small_experiments_train_all_by_one_game(project_root, experiment):
    params = load_params(project_root / "params" / f"{experiment}.yaml")
    for kind in KINDS:
        assert params.for_baseline(kind).train == params.train


def test_in_the_paper_s_sizes_the_baselines_alone_begin_by_reconstructing(project_root):
    params = load_params(project_root / "params" / "vp-hmdb51.yaml")
    assert params.train.init.reconstruction_weight == 0
    for kind in KINDS:
        theirs = params.for_baseline(kind).train.init
        assert theirs == params.train.init.model_copy(update={"reconstruction_weight": 10.0})


@pytest.mark.parametrize("experiment", ["vp-hmdb51", "vp-ucf101", "pa-hmdb51", "celebv-hq", "p-hvu"])
def test_in_the_paper_s_sizes_itnet_plays_vita_s_game_and_nobody_else_does(project_root, experiment):
    params = load_params(project_root / "params" / f"{experiment}.yaml")
    ours = params.train.game
    theirs = params.for_baseline("itnet").train.game
    assert (ours.objective, ours.combine, ours.restart_every) == ("negative", "mean", 0)
    assert (theirs.objective, theirs.combine) == ("entropy", "strongest") and theirs.restart_every
    assert theirs == ours.model_copy(update={"objective": "entropy", "combine": "strongest", "restart_every": theirs.restart_every})
    assert params.for_baseline("unet").train.game == params.for_baseline("collective").train.game == ours


def test_every_learned_method_has_a_folder_of_its_own():
    assert len({model_folder(method) for method in LEARNED}) == len(LEARNED)
    assert model_folder("stprivacy").as_posix() == "models/anonymizer"
