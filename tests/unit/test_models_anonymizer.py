"""The anonymizer: what it drops stays dropped, its two paths agree, and gradients pass its hard decisions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stprivacy.config import Channel, Clip, Model
from stprivacy.errors import UserError
from stprivacy.models import vit
from stprivacy.models.anonymizer import Anonymizer, expand_keep
from stprivacy.models.channel import transmit
from stprivacy.models.sparsification import num_kept
from stprivacy.randomness import keyed_gumbel
from tests.unit.test_models_attention import explicit_attention

CLIP = Clip(num_frames=4, size=32)
MODEL = Model(tubelet=(2, 8, 8), width=24, depth=5, num_heads=2, sparsify_before=(1, 3), keep_ratio=0.6, identity_start=False)


def build(**changes) -> Anonymizer:
    torch.manual_seed(0)
    return Anonymizer(MODEL.model_copy(update=changes), CLIP)


def make_clips(batch: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(batch, 3, CLIP.num_frames, CLIP.size, CLIP.size, generator=torch.Generator().manual_seed(7), dtype=dtype)


def random_decisions(num_kept_each: tuple[int, ...], batch: int = 3) -> list[torch.Tensor]:
    """Nested decisions (B, L·N) that leave so many tokens of each of the two slices of 16."""
    order = torch.rand(batch, 2, 16, generator=torch.Generator().manual_seed(3)).argsort(-1).argsort(-1)
    return [(order < count).float().flatten(1) for count in num_kept_each]


def tokens_seen_by_blocks(anonymizer: Anonymizer) -> list[torch.Tensor]:
    """Fills up with each block's output as the anonymizer runs."""
    seen: list[torch.Tensor] = []
    for block in anonymizer.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    return seen


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_dropped_tubelets_never_reach_the_release(training, fill):
    anonymizer = build().train(training)
    painted = anonymizer(make_clips())
    released = transmit(painted, Channel(noise=0.3, fill=fill), MODEL.tubelet, torch.randn(make_clips().shape))
    dropped = expand_keep(painted.keep, MODEL.tubelet, (32, 32)).expand_as(released) == 0
    assert 0 < dropped.float().mean() < 1
    assert (released[dropped] == round(fill * 255) / 255).all()


@given(st.floats(1e-6, 1, exclude_min=True))
@settings(max_examples=30, deadline=None)
def test_any_keep_ratio_up_to_one_can_be_had_at_deployment(keep_ratio):
    painted = build().eval()(make_clips(2), keep_ratio)
    assert painted.pixels.isfinite().all()
    if keep_ratio == 1:
        assert (painted.keep == 1).all()
    else:
        for block, kept in enumerate(painted.decisions, start=1):
            assert (kept.sum(2) == num_kept(keep_ratio**block, 16)).all()
        assert torch.equal(painted.decisions[-1], painted.keep)


def test_what_one_block_drops_the_next_cannot_bring_back():
    for training in (True, False):
        first, second = build().train(training)(make_clips()).decisions
        assert (second <= first).all()


@pytest.mark.parametrize("keep_ratio", [0.0, -0.1, 1.01, float("nan")])
def test_a_keep_ratio_outside_its_range_is_refused(keep_ratio):
    with pytest.raises(UserError, match="keep ratio"):
        build()(make_clips(), keep_ratio)


def test_without_sparsification_nothing_is_dropped():
    for anonymizer, ratio in ((build(sparsify_before=()), None), (build(), 1.0)):
        for training in (True, False):
            painted = anonymizer.train(training)(make_clips(), ratio)
            assert (painted.keep == 1).all()
            assert painted.decisions == ()


def test_masked_and_gathered_paths_agree_at_every_block_given_the_same_decisions():
    anonymizer, decisions = build(), random_decisions((9, 4))
    seen = tokens_seen_by_blocks(anonymizer)
    with torch.no_grad():
        masked_pixels, *_ = anonymizer.train().paint(make_clips(), decisions=decisions)
        gathered_pixels, keep, *_ = anonymizer.eval().paint(make_clips(), decisions=decisions)
    masked, gathered = seen[:5], seen[5:]
    for block, num_kept_then in enumerate([32, 18, 18, 8, 8]):  # in training kept tokens stand first
        torch.testing.assert_close(gathered[block], masked[block][:, :num_kept_then], msg=lambda m, block=block: f"block {block}: {m}")
    shown = expand_keep(keep, MODEL.tubelet, (32, 32)).expand_as(masked_pixels) == 1
    torch.testing.assert_close(gathered_pixels[shown], masked_pixels[shown])


@pytest.mark.parametrize("keep_ratio", [0.3, 0.7, 0.9])
def test_inference_computes_kept_tokens_alone(keep_ratio):
    anonymizer = build().eval()
    seen = tokens_seen_by_blocks(anonymizer)
    anonymizer(make_clips(), keep_ratio)
    once, twice = num_kept(keep_ratio, 16), num_kept(keep_ratio**2, 16)
    assert [tokens.shape[1] for tokens in seen] == [2 * count for count in (16, once, once, twice, twice)]


def explicit_block(block: vit.Block, tokens, keep=None, num_live=None) -> torch.Tensor:
    """A block with an N × N mask, in which every token has its gradient."""
    everything = torch.ones(tokens.shape[:2], dtype=tokens.dtype)
    attended = explicit_attention(*block.attn.heads(block.norm1(tokens)), everything if keep is None else keep)
    tokens = tokens + block.attn.merge(attended)
    return tokens + block.mlp(block.norm2(tokens))


def test_gradients_through_hard_decisions_are_those_of_an_explicit_mask(monkeypatch):
    gumbel = keyed_gumbel((2, 32, 2), ("test",), range(3)).double()
    gradients = []
    for forward in (vit.Block.forward, explicit_block):
        monkeypatch.setattr(vit.Block, "forward", forward)
        anonymizer = build().double().train()
        painted = anonymizer(make_clips(dtype=torch.float64), gumbel=gumbel)
        released = painted.pixels * expand_keep(painted.keep, MODEL.tubelet, (32, 32))
        (released.square().sum() + sum(kept.mean(2).square().sum() for kept in painted.decisions)).backward()
        gradients.append({name: parameter.grad for name, parameter in anonymizer.named_parameters()})
    for name, theirs in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], theirs, msg=lambda m, name=name: f"{name}: {m}", rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("counts", [(0, 0), (16, 16), (16, 0), (1, 1)])
def test_training_survives_decisions_that_keep_all_or_nothing(counts):
    anonymizer = build().train()
    painted = anonymizer(make_clips(), decisions=random_decisions(counts))
    transmit(painted, Channel(), MODEL.tubelet, None).mean().backward()
    assert int(painted.keep.sum()) == 3 * 2 * counts[-1]
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in anonymizer.parameters())


def test_scorers_learn_from_the_released_pixels():
    anonymizer = build().train()
    painted = anonymizer(make_clips())
    transmit(painted, Channel(), MODEL.tubelet, None).mean().backward()
    for scorer in anonymizer.score_predictor:
        assert all(parameter.grad.abs().sum() > 0 for parameter in scorer.parameters())


def test_a_clip_s_decisions_depend_on_its_own_key_and_not_on_its_place_in_the_batch():
    anonymizer, clips = build().train(), make_clips(4)
    noise = keyed_gumbel(anonymizer.gumbel_shape, ("gumbel", 0), [10, 11, 12, 13])
    again = keyed_gumbel(anonymizer.gumbel_shape, ("gumbel", 0), [12, 13])
    whole, part = anonymizer(clips, gumbel=noise), anonymizer(clips[2:], gumbel=again)
    assert torch.equal(whole.keep[2:], part.keep)
    torch.testing.assert_close(whole.pixels[2:], part.pixels)


def test_without_noise_given_training_decisions_are_drawn_anew():
    anonymizer = build().train()
    assert not torch.equal(anonymizer(make_clips()).keep, anonymizer(make_clips()).keep)


def smooth_clips() -> torch.Tensor:
    """Clips of moving gradients and edges, as video has, and not of noise."""
    coarse = torch.rand(32, 3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(4, 32, 32), mode="trilinear", align_corners=False)


@pytest.mark.parametrize("changes", [{}, {"input_mean": 0.2, "input_std": 0.7}, {"width": 400, "tubelet": (2, 4, 4)}])
def test_an_identity_start_releases_nearly_the_clip_it_was_given(changes):
    anonymizer = build(identity_start=True, **changes)
    anonymizer.start_as_identity(smooth_clips()[:16])
    painted = anonymizer(smooth_clips()[16:], keep_ratio=1.0)
    released = transmit(painted, Channel(), anonymizer.tubelet, None)
    assert (released - smooth_clips()[16:]).square().mean() < 0.01
    assert smooth_clips().var() > 0.02  # a grey release would fail


def test_dropping_leaves_kept_tubelets_as_they_are_at_the_identity_start():
    anonymizer = build(identity_start=True).eval()
    anonymizer.start_as_identity(smooth_clips())
    painted = anonymizer(smooth_clips(), keep_ratio=0.7)
    keep = expand_keep(painted.keep, MODEL.tubelet, (32, 32))
    assert ((painted.pixels - smooth_clips()) * keep).square().mean() < 0.01


@given(st.sampled_from([(1, 4, 4), (2, 8, 16), (4, 16, 8)]), st.sampled_from([(4, 16), (8, 32)]), st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_pixels_come_back_in_the_shape_of_the_clip(tubelet, shape, batch):
    clip = Clip(num_frames=shape[0], size=shape[1])
    anonymizer = Anonymizer(MODEL.model_copy(update={"tubelet": tubelet}), clip)
    clips = torch.rand(batch, 3, clip.num_frames, clip.size, clip.size)
    for training in (True, False):
        painted = anonymizer.train(training)(clips)
        assert painted.pixels.shape == clips.shape
        assert painted.keep.shape == (batch, clip.num_frames // tubelet[0], (clip.size // tubelet[1]) * (clip.size // tubelet[2]))
        assert 0 <= painted.pixels.min() <= painted.pixels.max() <= 1


def test_each_token_paints_its_own_tubelet():
    anonymizer = build()
    values = torch.arange(32.0).view(1, 32, 1).expand(1, 32, 3 * 2 * 8 * 8)
    pixels = anonymizer._unfold(values)
    assert torch.equal(vit.fold(pixels, MODEL.tubelet), values)


def test_the_paper_s_configuration_has_the_size_of_vit_small():
    paper = Model(
        tubelet=(2, 16, 16), width=384, depth=12, num_heads=6, mlp_ratio=4, sparsify_before=(3, 6, 9), keep_ratio=0.7,
        keep_bias=0, logit_scale=1, input_mean=0, input_std=1, final_norm=True, identity_start=False,
    )  # fmt: skip
    anonymizer = Anonymizer(paper, Clip(num_frames=16, size=112)).eval()
    assert sum(parameter.numel() for parameter in anonymizer.blocks.parameters()) == 12 * 1_774_464  # a ViT-S block of timm's
    with torch.no_grad():
        painted = anonymizer(torch.rand(1, 3, 16, 112, 112))
    assert [int(kept[0, 0].sum()) for kept in painted.decisions] == [34, 24, 16]
