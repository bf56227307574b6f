"""What H.264 leaves of a release, and that attackers get that and nothing else."""

import cv2
import numpy as np
import pytest
import torch

from stprivacy.config import Channel
from stprivacy.data.codec import through_codec
from stprivacy.errors import UserError
from stprivacy.evaluation.methods import load_method
from stprivacy.evaluation.released import Released, release
from stprivacy.models.channel import to_uint8
from tests.unit.evaluation_files import CLIP, noise_clips, random_labels, release_job, tiny_model, write_dataset

SIZES = {"train": 5, "val": 3, "test": 3}


def smooth_clips(count: int = 2, side: int = 32) -> np.ndarray:
    noise = noise_clips({"test": count}, (4, side, side))["test"]
    return np.stack([[cv2.GaussianBlur(frame, (9, 9), 4) for frame in clip] for clip in noise])


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_a_coarser_codec_leaves_less():
    clips = smooth_clips()
    lost = [distance(through_codec(clips, crf), clips) for crf in (5, 23, 45)]
    assert lost == sorted(lost) and lost[0] < lost[2] / 2
    assert through_codec(clips, 23).dtype == np.uint8


def test_every_clip_is_a_file_of_its_own_and_the_bytes_repeat():
    clips = smooth_clips(3)
    whole = through_codec(clips, 30)
    assert np.array_equal(through_codec(clips[1:2], 30)[0], whole[1])
    assert np.array_equal(through_codec(clips, 30), whole)


def test_odd_sides_are_refused():
    with pytest.raises(UserError, match="channel.codec_crf = 23: H.264 needs even sides"):
        through_codec(np.zeros((1, 2, 16, 15, 3), np.uint8), 23)


@pytest.fixture
def shards(tmp_path):
    return write_dataset(tmp_path / "data", noise_clips(SIZES), *random_labels(SIZES))


def test_attackers_get_what_the_codec_leaves_in_every_split(shards, tmp_path):
    channel = Channel(noise=0.0)
    plain = Released(release(release_job(shards, tmp_path, "blur", channel=channel)))
    coded = Released(release(release_job(shards, tmp_path, "blur", channel=channel.model_copy(update={"codec_crf": 30}))))
    assert coded.folder != plain.folder
    for split in ("val", "test"):
        for before, after in zip(plain.views(split), coded.views(split), strict=True):
            assert np.array_equal(after, through_codec(before, 30))
    rows = np.arange(5)
    assert np.array_equal(to_uint8(coded.training_batch(rows, 0, 0)), through_codec(to_uint8(plain.training_batch(rows, 0, 0)).numpy(), 30))
    assert torch.equal(coded.training_batch(rows, 0, 1), coded.training_batch(rows, 0, 1))


def test_the_codec_is_the_experiment_s_and_no_part_of_a_model(tmp_path):
    model = tiny_model(tmp_path, Channel(noise=0.3, codec_crf=40))
    assert load_method("stprivacy", model, CLIP, Channel()).channel == Channel(noise=0.3)
    assert load_method("stprivacy", model, CLIP, Channel(codec_crf=23)).channel == Channel(noise=0.3, codec_crf=23)
