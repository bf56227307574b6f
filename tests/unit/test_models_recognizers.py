"""Recognizers: what each kind sees, and what it cannot see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stprivacy.config import Clip, Recognizers
from stprivacy.errors import UserError
from stprivacy.models.recognizers import FrameAndDifference, VideoCNN, build_recognizer, clip_statistics

KINDS = ("cnn3d", "cnn2d", "vit")
SIZES = Recognizers(cnn_width=4, vit_width=24, vit_depth=2, vit_num_heads=2, vit_tubelet=(2, 8, 8))
CLIP = Clip(num_frames=4, size=32)


def make_clips(frames: int = 4, size: int = 32, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


def build(kind: str):
    torch.manual_seed(0)
    return build_recognizer(kind, 5, SIZES, CLIP).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_a_linear_head_on_the_features(kind):
    network = build(kind)
    features = network.features(make_clips())
    assert features.shape == (3, network.head.in_features)
    torch.testing.assert_close(network(make_clips()), features @ network.head.weight.T + network.head.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_s_answer_does_not_depend_on_its_neighbours(kind):
    network = build(kind)
    torch.testing.assert_close(network(make_clips())[1:2], network(make_clips()[1:2]), atol=1e-5, rtol=1e-5)


def test_a_vit_does_not_look_at_black_tubelets_and_sees_every_other_colour():
    network, clips = build("vit"), make_clips()
    place = 16 + 2  # the second slice's third tubelet of a row of four
    answers = []
    for colour in (0.0, 0.5, 0.6):
        clips[1, :, 2:, :8, 16:24] = colour
        before = network(clips)
        with torch.no_grad():
            network.pos_embed[0, place, 0] += 1.0
            after = network(clips)
            network.pos_embed[0, place, 0] -= 1.0
        answers.append((before[1], torch.allclose(before[1], after[1])))
    assert [same for _, same in answers] == [True, False, False]
    assert not torch.allclose(answers[1][0], answers[2][0])
    assert torch.isfinite(network(torch.zeros_like(clips))).all()  # nothing but black: it is looked at whole


@pytest.mark.parametrize("kind", ["cnn3d", "cnn2d"])
@given(st.integers(1, 9), st.integers(16, 50))
@settings(max_examples=12, deadline=None)
def test_cnns_take_clips_of_any_size(kind, frames, size):
    assert build(kind)(make_clips(frames, size, batch=2)).shape == (2, 5)


@given(st.integers(1, 5), st.integers(5, 20))
@settings(max_examples=15, deadline=None)
def test_the_first_convolution_sees_the_frame_and_its_difference_to_the_next(frames, size):
    torch.manual_seed(0)
    convolution, clips = FrameAndDifference(4), make_clips(frames, size).double()
    convolution = convolution.double()
    centred = 4 * (clips - 0.5)
    difference = torch.cat([centred[:, :, 1:] - centred[:, :, :-1], torch.zeros_like(centred[:, :, :1])], 2)
    six = torch.cat([centred, difference], 1)
    expected = F.conv3d(six, convolution.weight, convolution.bias, (1, 2, 2), (0, 2, 2))
    torch.testing.assert_close(convolution(clips), expected)


def test_a_video_recognizer_sees_the_order_of_frames_and_a_frame_recognizer_does_not():
    backwards = make_clips().flip(2)
    assert not torch.allclose(build("cnn3d")(make_clips()), build("cnn3d")(backwards), atol=1e-4)
    torch.testing.assert_close(build("cnn2d")(make_clips()), build("cnn2d")(backwards))


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_contiguous_as_deepspeed_wants_them(kind):
    assert all(parameter.is_contiguous() for parameter in build(kind).parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_clip_through_frozen_weights(kind):
    network, clips = build(kind).requires_grad_(False), make_clips().requires_grad_()
    network(clips).sum().backward()
    assert (clips.grad.abs().sum((1, 3, 4)) > 0).all()  # every frame of every clip


def test_a_video_recognizer_learns_motion_in_a_few_steps():
    """Bars that move left or right: a frame shows nothing of it."""
    generator = torch.Generator().manual_seed(0)
    place, direction = torch.randint(8, 24, (32,), generator=generator), torch.randint(0, 2, (32,), generator=generator)
    clips = torch.zeros(32, 3, 4, 32, 32)
    for row in range(32):
        for frame in range(4):
            left = int(place[row]) + 2 * frame * (1 - 2 * int(direction[row]))
            clips[row, :, frame, :, left : left + 2] = 1
    torch.manual_seed(0)
    network = VideoCNN(2, 8)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(network(clips), direction).backward()
        optimizer.step()
    assert (network(clips).argmax(1) == direction).float().mean() > 0.95


def test_statistics_have_small_finite_slopes_where_nothing_changes_or_hardly_anything():
    clips = torch.full((3, 3, 4, 32, 32), 0.3)
    clips[:, :, :, :16] = make_clips()[:, :, :, :16]  # moves above, is constant below,
    clips[1] = 0.0  # is dropped all over,
    clips[2, :, 2, 24:] += 1e-7  # changes by rounding alone
    clips.requires_grad_()
    clip_statistics(clips).square().sum().add(clip_statistics(clips).sum()).backward()
    assert clips.grad.isfinite().all()
    assert clips.grad.abs().max() < 3  # three means of it, and none of them of steeper slope than one
    assert clips.grad[0, :, :, :16].abs().min() > 0


@pytest.mark.parametrize(
    ("kind", "changes", "key"),
    [
        ("cnn3d", {"cnn_width": 6}, "cnn_width"),
        ("cnn2d", {"cnn_width": 1}, "cnn_width"),
        ("vit", {"vit_tubelet": (2, 7, 8)}, "clip.size"),
        ("vit", {"vit_tubelet": (3, 8, 8)}, "clip.num_frames"),
        ("vit", {"vit_num_heads": 5}, "vit_width"),
    ],
)
def test_sizes_that_no_network_can_have_are_named(kind, changes, key):
    with pytest.raises(UserError, match=key):
        build_recognizer(kind, 5, SIZES.model_copy(update=changes), CLIP)
