"""With the same weights and the same decisions, ours gives what the authors' modules give.

Needs the authors' files: STPRIVACY_REFERENCE names the folder that holds `stprivacy_official/`.
"""

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from stprivacy.config import Clip, Model, Recognizers
from stprivacy.models.anonymizer import Anonymizer, expand_keep
from stprivacy.models.checkpoints import from_authors, load_state, warm_start
from stprivacy.models.recognizers import VideoTransformer

REFERENCE = os.environ.get("STPRIVACY_REFERENCE", "")
OFFICIAL = Path(REFERENCE) / "stprivacy_official"
pytestmark = pytest.mark.skipif(
    not (REFERENCE and OFFICIAL.exists()), reason="STPRIVACY_REFERENCE names no folder with the authors' modules"
)

CLIP = Clip(num_frames=8, size=64)  # 4 slices of 16 tubelets of 2 × 16 × 16
MODEL = Model(
    tubelet=(2, 16, 16), width=48, depth=6, num_heads=3, mlp_ratio=4, sparsify_before=(1, 3, 4), keep_ratio=0.7,
    keep_bias=0, logit_scale=1, input_mean=0, input_std=1, final_norm=True, identity_start=False,
)  # fmt: skip
CLIPS = torch.rand(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def authors():
    """Their two modules under names of their own, since one is called `stprivacy` as this package is."""
    sys.path.insert(0, str(OFFICIAL))  # their folder brings the few names of timm that they import
    modules = []
    for name in ("stprivacy", "action"):
        spec = importlib.util.spec_from_file_location(f"authors_{name}", OFFICIAL / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules.append(module)
    yield modules
    sys.path.remove(str(OFFICIAL))
    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        del sys.modules[name]


@pytest.fixture
def pair(authors):
    """Their anonymizer and ours with the same weights, none of which is where it was initialised."""
    torch.manual_seed(0)
    theirs = authors[0].STPrivacy(
        img_size=64, patch_size=16, tubelet_size=2, all_frames=8, embed_dim=48, depth=6, num_heads=3,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), pruning_loc=[1, 3, 4], token_ratio=[0.7, 0.49, 0.343],
    )  # fmt: skip
    shake(theirs)
    ours = Anonymizer(MODEL, CLIP)
    load_state(from_authors(theirs.state_dict(), ours), ours, "theirs")
    return theirs, ours


def shake(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))


def nested_decisions() -> list[torch.Tensor]:
    """Random nested decisions, differently many in every slice and clip."""
    draws = torch.rand(3, 2, 64, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.8, 0.7, 0.6]).view(3, 1, 1)
    return list(draws.float().cumprod(0))


def hand_over(monkeypatch, module, decisions) -> None:
    """Make their Gumbel-softmax answer with these decisions, in turn."""
    waiting = list(decisions)

    def answer(scores, hard):
        assert hard
        decision = waiting.pop(0)
        return torch.stack([decision, 1 - decision], -1)

    monkeypatch.setattr(module.F, "gumbel_softmax", answer)


def on_kept(pixels, keep):
    return pixels * expand_keep(keep, MODEL.tubelet, (64, 64))


def test_in_training_kept_pixels_before_the_bound_are_the_authors(authors, pair, monkeypatch):
    theirs, ours = pair
    decisions = nested_decisions()
    hand_over(monkeypatch, authors[0], decisions)
    their_pixels, their_keep, their_decisions = theirs.train()(CLIPS)
    pixels, keep, taken, _ = ours.train().paint(CLIPS, decisions=decisions)
    assert torch.equal(keep.flatten(1), their_keep[..., 0])
    for mine, others in zip(taken, their_decisions, strict=True):
        assert torch.equal(mine, others)
    assert on_kept(pixels, keep).abs().max() > 0.5
    torch.testing.assert_close(on_kept(pixels, keep), on_kept(their_pixels, keep), atol=1e-4, rtol=0)


def test_in_training_kept_tokens_are_the_authors_after_every_block(authors, pair, monkeypatch):
    theirs, ours = pair
    decisions, seen = nested_decisions(), ([], [])
    hand_over(monkeypatch, authors[0], decisions)
    for tokens, network in zip(seen, pair, strict=True):
        for block in network.blocks:
            block.register_forward_hook(lambda _module, _inputs, output, tokens=tokens: tokens.append(output))
    theirs.train()(CLIPS)
    ours.train().paint(CLIPS, decisions=decisions)
    in_force = [torch.ones(2, 64), decisions[0], decisions[0], decisions[1], decisions[2], decisions[2]]
    for others, mine, keep in zip(*seen, in_force, strict=True):
        for clip, kept in enumerate(keep.bool()):  # ours has kept tokens first
            torch.testing.assert_close(mine[clip, : kept.sum()], others[clip, kept], atol=1e-4, rtol=0)


def test_in_training_weights_and_decisions_get_the_authors_gradients(authors, pair, monkeypatch):
    theirs, ours = pair
    gradients = []
    for network in pair:
        decisions = [decision.requires_grad_() for decision in nested_decisions()]
        if network is theirs:
            hand_over(monkeypatch, authors[0], decisions)
            pixels, keep, _ = theirs.train()(CLIPS)
            keep = keep.view(2, 4, 16)
        else:
            pixels, keep, *_ = ours.train().paint(CLIPS, decisions=decisions)
        on_kept(pixels, keep).sin().mean().backward()
        weights = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        gradients.append(weights | {f"decision {index}": decision.grad for index, decision in enumerate(decisions)})
    assert gradients[0].keys() == gradients[1].keys()
    for name, others in gradients[0].items():
        difference = (gradients[1][name] - others).norm() / others.norm().clamp_min(1e-9)
        assert difference < 1e-3, f"{name}: relative difference {difference:.1e}"  # theirs smooths the softmax by 1e-6


def test_at_inference_decisions_and_pixels_are_the_authors(pair):
    theirs, ours = pair
    with torch.no_grad():
        their_pixels, their_keep, _ = theirs.eval()(CLIPS)
        pixels, keep, taken, _ = ours.eval().paint(CLIPS)
    assert [int(kept[0, 0].sum()) for kept in taken] == [11, 7, 5]
    assert torch.equal(keep.flatten(1), their_keep[..., 0])
    torch.testing.assert_close(on_kept(pixels, keep), on_kept(their_pixels, keep), atol=1e-4, rtol=0)


def test_scores_order_tokens_as_the_authors_do(pair):
    theirs, ours = pair
    tokens, keep = torch.randn(2, 64, 48), nested_decisions()[0]
    for mine, others in zip(ours.score_predictor, theirs.score_predictor, strict=True):
        torch.testing.assert_close(mine(tokens, keep).log_softmax(-1), others(tokens, keep[..., None]), atol=1e-4, rtol=0)


@pytest.fixture
def vits(authors):
    """The authors' recognizer and ours with its weights."""
    torch.manual_seed(0)
    theirs = authors[1].VisionTransformer(
        img_size=64, patch_size=16, num_classes=7, embed_dim=48, depth=3, num_heads=3, mlp_ratio=4, qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), all_frames=8, tubelet_size=2,
    )  # fmt: skip
    shake(theirs)
    ours = VideoTransformer(7, Recognizers(vit_width=48, vit_depth=3, vit_num_heads=3, vit_tubelet=(2, 16, 16)), CLIP)
    load_state(from_authors(theirs.state_dict(), ours), ours, "theirs")
    return theirs, ours


@pytest.mark.parametrize("align", [True, False])
def test_the_vit_recognizer_is_the_authors(vits, align):
    theirs, ours = vits
    torch.testing.assert_close(ours(CLIPS), theirs(CLIPS, torch.ones(2, 64, 1), align=align), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kept", [(20, 20), (20, 33)], ids=["as many in every clip", "more in one"])
def test_the_vit_recognizer_sees_of_a_release_what_the_authors_does_that_is_told_what_was_dropped(vits, kept):
    theirs, ours = vits
    keep = torch.stack([(torch.randperm(64) < count).float() for count in kept])
    released = CLIPS * expand_keep(keep.view(2, 4, 16), (2, 16, 16), (64, 64))
    told = theirs(released, keep[..., None], align=kept[0] == kept[1])
    torch.testing.assert_close(ours(released), told, atol=1e-4, rtol=0)


def test_a_file_of_the_authors_weights_starts_ours(pair, tmp_path):
    theirs, _ = pair
    torch.save({"model": {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}}, tmp_path / "theirs.pth")
    ours = Anonymizer(MODEL, CLIP)
    assert warm_start(tmp_path / "theirs.pth", ours) == []
    assert torch.equal(ours.head_recon.weight, theirs.head_recon.weight)
