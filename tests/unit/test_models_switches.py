"""The ablations of the paper as switches of the model: what each takes away, and that the default is as it was."""

import hashlib
import itertools

import pytest
import torch

from stprivacy.config import Channel, Clip, Model
from stprivacy.errors import UserError
from stprivacy.models.anonymizer import Anonymizer, expand_keep
from stprivacy.models.channel import transmit
from stprivacy.models.checkpoints import load_anonymizer, save_model
from stprivacy.models.encoder import CALIBRATED_RATIOS
from stprivacy.models.sparsification import Scorer, num_kept, over_threshold, threshold_of
from stprivacy.release.clips import release

CLIP = Clip(num_frames=4, size=32)
MODEL = Model(tubelet=(2, 8, 8), width=24, depth=5, num_heads=2, sparsify_before=(1, 3), keep_ratio=0.6, identity_start=False)
FRAME_LEVEL = {"attention": "frame", "aggregation": ("local", "spatial")}


def build(**changes) -> Anonymizer:
    torch.manual_seed(0)
    return Anonymizer(Model(**MODEL.model_dump() | changes), CLIP)


def make_clips(batch: int = 3, seed: int = 7) -> torch.Tensor:
    return torch.rand(batch, 3, CLIP.num_frames, CLIP.size, CLIP.size, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------- the default


def test_the_default_model_is_the_one_that_published_results_were_made_with():
    """Names, shapes, random draws and pixels of the VP-Synth model, as they were before there were switches."""
    torch.manual_seed(0)
    anonymizer = Anonymizer(Model(), Clip())
    names = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in anonymizer.state_dict().items())
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "0ebbe2406120061a"
    assert sum(tensor.double().abs().sum() for tensor in anonymizer.state_dict().values()).item() == pytest.approx(15751.218636, rel=1e-6)
    clips = torch.rand(2, 3, 8, 48, 48, generator=torch.Generator().manual_seed(1))
    anonymizer.start_as_identity(clips)
    with torch.no_grad():
        for parameter in anonymizer.blocks.parameters():
            parameter.add_(0.01)  # residual branches that do something
    noise = torch.rand(2, *anonymizer.gumbel_shape, generator=torch.Generator().manual_seed(2)).log().neg().log().neg()
    for training, pixels, kept in ((True, 51276.975969, 192), (False, 52542.112201, 200)):
        painted = anonymizer.train(training)(clips, gumbel=noise)
        assert painted.keep.sum() == kept
        assert painted.pixels.double().sum().item() == pytest.approx(pixels, rel=1e-4)


# ---------------------------------------------------------------------------------------------------- what is painted


@pytest.mark.parametrize("training", [True, False])
def test_sparsification_only_lets_kept_tubelets_pass_as_they_are(training):
    anonymizer, clips = build(repaint=False).train(training), make_clips()
    painted = anonymizer(clips)
    released = transmit(painted, Channel(noise=0, fill=0), MODEL.tubelet, None)
    keep = expand_keep(painted.keep, MODEL.tubelet, (32, 32)).expand_as(clips)
    assert 0 < keep.mean() < 1
    assert torch.equal(released, torch.where(keep == 1, (clips * 255).round() / 255, 0))


def test_sparsification_only_still_teaches_the_scorers():
    anonymizer, clips = build(repaint=False).train(), make_clips()
    released = transmit(anonymizer(clips), Channel(noise=0, fill=0), MODEL.tubelet, None)
    (released * torch.rand(clips.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert all(scorer.out_conv[0].weight.grad.abs().sum() > 0 for scorer in anonymizer.score_predictor)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("repaint", [True, False])
def test_without_sparsification_nothing_is_dropped(training, repaint):
    anonymizer, clips = build(sparsify_before=(), repaint=repaint).train(training), make_clips()
    painted = anonymizer(clips, 0.5)
    assert (painted.keep == 1).all() and not painted.decisions
    assert torch.equal(painted.pixels, clips) == (not repaint)  # neither: the clip itself


# ---------------------------------------------------------------------------------------------------- what a scorer sees


SUBSETS = [("local", *rest) for size in range(3) for rest in itertools.combinations(("spatial", "spatiotemporal"), size)]


@pytest.mark.parametrize("levels", SUBSETS, ids="+".join)
def test_a_scorer_sees_the_levels_that_it_was_given(levels):
    """Its layers on means by hand, token by token."""
    torch.manual_seed(0)
    scorer, tokens = Scorer(12, 2, levels=levels), torch.rand(2, 6, 12)  # 2 slices of 3
    keep = torch.tensor([[1, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1]], dtype=torch.float32)
    projected = scorer.in_conv(tokens)
    assert projected.shape[-1] == 4 * len(levels)
    thirds = dict(zip(levels, projected.split(4, -1), strict=True))
    expected = torch.empty(2, 6, 2)
    for clip, token in itertools.product(range(2), range(6)):
        own = range(3) if token < 3 else range(3, 6)
        seen = [thirds["local"][clip, token]]
        for level, among in (("spatial", own), ("spatiotemporal", range(6))):
            if level in levels:
                seen.append(torch.stack([thirds[level][clip, other] for other in among if keep[clip, other]]).mean(0))
        expected[clip, token] = scorer.out_conv(torch.cat(seen))
    torch.testing.assert_close(scorer(tokens, keep), expected)


@pytest.mark.parametrize("training", [True, False])
def test_frame_level_slices_do_not_see_one_another(training):
    anonymizer = build(**FRAME_LEVEL).train(training)
    gumbel = torch.rand(3, *anonymizer.gumbel_shape, generator=torch.Generator().manual_seed(1))
    clips, other = make_clips(), make_clips(seed=8)
    other[:, :, :2] = clips[:, :, :2]  # the first slice is the same, the second is not
    one, two = anonymizer(clips, gumbel=gumbel), anonymizer(other, gumbel=gumbel)
    assert torch.equal(one.keep[:, 0], two.keep[:, 0])
    torch.testing.assert_close(one.pixels[:, :, :2], two.pixels[:, :, :2])
    assert not torch.allclose(one.pixels[:, :, 2:], two.pixels[:, :, 2:], atol=1e-3)


def test_frame_level_paths_of_training_and_release_agree_on_the_same_decisions():
    anonymizer, clips = build(**FRAME_LEVEL), make_clips()
    released = anonymizer.eval()(clips)
    decisions = [decision.flatten(1) for decision in released.decisions]
    trained = anonymizer.train()(clips, decisions=decisions)
    kept = expand_keep(released.keep, MODEL.tubelet, (32, 32)).expand_as(clips) == 1
    torch.testing.assert_close(trained.pixels[kept], released.pixels[kept], atol=1e-5, rtol=1e-5)


def test_frame_level_attention_is_the_model_on_each_slice_by_itself():
    """A clip of one slice has nobody else to see: clip-level attention on it is the oracle."""
    anonymizer, clips = build(**FRAME_LEVEL).eval(), make_clips()
    alone = Anonymizer(Model(**MODEL.model_dump() | FRAME_LEVEL | {"attention": "clip"}), Clip(num_frames=2, size=32)).eval()
    for place in range(2):
        state = {name: tensor[:, 16 * place : 16 * (place + 1)] if name == "pos_embed" else tensor
                 for name, tensor in anonymizer.state_dict().items()}  # fmt: skip
        alone.load_state_dict(state)
        frames = slice(2 * place, 2 * place + 2)
        torch.testing.assert_close(anonymizer(clips).pixels[:, :, frames], alone(clips[:, :, frames]).pixels, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------- how many are kept


def adaptive(clips: torch.Tensor) -> Anonymizer:
    anonymizer = build(budget="adaptive").eval()
    anonymizer.calibrate(anonymizer.embed(clips))
    return anonymizer


@pytest.mark.parametrize("ratio", [0.3, 0.62, 0.95])
def test_an_adaptive_budget_keeps_the_share_in_the_mean_and_follows_the_clip(ratio):
    clips = torch.cat([make_clips(12) * 0.2, make_clips(12, seed=9)])
    painted = adaptive(clips)(clips, ratio)
    for block, decision in enumerate(painted.decisions, start=1):
        assert decision.mean().item() == pytest.approx(ratio**block, abs=0.03)
    counts = painted.keep.flatten(1).sum(1)
    assert counts.min() < counts.max()
    assert (painted.keep.sum(2) >= 1).all()


def test_an_adaptive_budget_keeps_fewer_of_every_clip_as_the_ratio_falls():
    clips = make_clips(6)
    anonymizer = adaptive(clips)
    shares = [anonymizer(clips, ratio).decisions[0].mean().item() for ratio in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert shares == sorted(shares) and len(set(shares)) == 5
    assert anonymizer(clips, 1.0).keep.mean() == 1


def test_a_clip_s_release_does_not_depend_on_its_neighbours_in_the_batch():
    clips = make_clips(6)
    anonymizer = adaptive(clips)
    whole, part = anonymizer(clips), anonymizer(clips[2:3])
    assert torch.equal(whole.keep[2:3], part.keep)
    kept = expand_keep(part.keep, MODEL.tubelet, (32, 32)).expand_as(part.pixels) == 1
    torch.testing.assert_close(whole.pixels[2:3][kept], part.pixels[kept], atol=1e-5, rtol=1e-5)


def test_thresholds_are_saved_with_the_weights_and_used_at_release(tmp_path):
    clips = make_clips(6)
    anonymizer = adaptive(clips)
    config = {"model": anonymizer.config.model_dump(mode="json"), "channel": Channel(noise=0).model_dump(), "clip": CLIP.model_dump()}
    save_model(tmp_path, anonymizer, config)
    loaded, channel = load_anonymizer(tmp_path)
    assert torch.equal(loaded.thresholds, anonymizer.thresholds)
    pixels = (clips * 255).round().byte().permute(0, 2, 3, 4, 1).numpy()
    dropped = [int((frame.max(-1) == 0).sum()) for frame in release(loaded, channel, pixels, 0.5)]
    assert len(set(dropped)) > 1


def test_an_uncalibrated_budget_and_a_ratio_below_its_table_are_refused():
    with pytest.raises(UserError, match="no thresholds yet; run train"):
        build(budget="adaptive").eval()(make_clips(), 0.5)
    with pytest.raises(UserError, match=r"keep ratio 0\.01: .*calibrated from 0\.05"):
        adaptive(make_clips())(make_clips(), 0.01)


def test_training_knows_no_threshold():
    plain, other = build().train(), build(budget="adaptive").train()
    gumbel = torch.rand(3, *plain.gumbel_shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain(make_clips(), gumbel=gumbel).pixels, other(make_clips(), gumbel=gumbel).pixels)


def test_a_threshold_leaves_the_share_of_all_tokens_that_are_still_in():
    generator = torch.Generator().manual_seed(0)
    logits, keep = torch.rand(4, 20, 2, generator=generator), (torch.rand(4, 20, generator=generator) < 0.8).float()
    for share in CALIBRATED_RATIOS[6:]:
        decision = over_threshold(logits, keep, 2, threshold_of(logits, keep, 2, share)) * keep
        assert decision.sum() == round(share * int(keep.sum()))


@pytest.mark.parametrize("tubelet", [(1, 8, 8), (4, 8, 8)])
@pytest.mark.parametrize("sparsify_before", [(0,), (2,), (0, 2, 4), (4,)])
def test_depth_of_tubelets_and_place_of_sparsification_are_free(tubelet, sparsify_before):
    anonymizer = build(tubelet=tubelet, sparsify_before=sparsify_before).eval()
    kept = num_kept(0.6 ** len(sparsify_before), 16)
    assert (anonymizer(make_clips()).keep.sum(2) == kept).all()


# ---------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aggregation": ("spatial",)}, r"aggregation \['spatial'\] needs local"),
        ({"aggregation": ("local", "local")}, "each level once"),
        ({"attention": "frame"}, r"set \[local, spatial\]"),
    ],
)
def test_switches_that_exclude_each_other_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Model(**changes)
