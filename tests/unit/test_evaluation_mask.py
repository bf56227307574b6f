"""What the dropped tubelets alone tell: seen in the pixels exactly, found where it is there to be found, and not where it isn't."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from stprivacy.config import Channel
from stprivacy.evaluation.judge import judge
from stprivacy.evaluation.mask import MaskJob, pattern
from stprivacy.evaluation.metrics import average_precisions
from stprivacy.evaluation.released import Released, release
from stprivacy.evaluation.results import write_results
from stprivacy.evaluation.statistics import interval, macro, resampled_aps, resamples
from stprivacy.models import baselines
from stprivacy.models.anonymizer import Painted
from tests.unit.evaluation_files import (
    COUNTS,
    SHARE,
    noise_clips,
    one_by_one,
    random_labels,
    release_job,
    tiny_model,
    tiny_params,
    write_dataset,
)

NUM = {"train": 160, "val": 80, "test": 160}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("noise"), noise_clips(COUNTS), *random_labels(COUNTS))


@pytest.mark.parametrize("channel", [
    Channel(noise=0.0, fill=0.25), Channel(noise=0.2, fill=0.0), Channel(noise=0.2, fill=0.5), Channel(noise=0.2, fill=0.5, codec_crf=23),
], ids=str)  # fmt: skip
def test_what_was_dropped_is_seen_in_the_pixels(shards, tmp_path, channel):
    model = tiny_model(tmp_path / "model", channel.model_copy(update={"codec_crf": None}))
    job = release_job(shards, tmp_path, "stprivacy", kept_share=SHARE, model=model, channel=channel)
    released = Released(release(job))
    seen = released.dropped(released.training_batch(np.arange(COUNTS["train"]), 0, 0))
    truth = 1 - torch.from_numpy(np.load(released.folder / "train-keep.npy")).float()
    assert 0.4 < truth.mean() < 0.6
    assert (seen == truth).float().mean() >= (1.0 if channel.codec_crf is None else 0.98)


def test_a_method_that_drops_nothing_has_no_mask(shards, tmp_path):
    assert not Released(release(release_job(shards, tmp_path))).drops_tubelets
    model = tiny_model(tmp_path / "model")
    of_share = {
        share: Released(release(release_job(shards, tmp_path, "stprivacy", kept_share=share, model=model))).drops_tubelets
        for share in (1.0, SHARE)
    }
    assert of_share == {1.0: False, SHARE: True}


def test_a_pattern_has_every_place_and_every_change():
    dropped = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    assert pattern(dropped).tolist() == [[1, 0, 1, 1, 0, 1, 0, 1, 1, 0]]


class Dropping(nn.Module):
    """Noise everywhere, and half of the pixels dropped by chance; `tells`: a corner goes with attribute 0."""

    def __init__(self, tells: bool):
        super().__init__()
        self.tells = tells

    def forward(self, clips: torch.Tensor) -> Painted:
        draw = torch.Generator().manual_seed(int(clips.sum().item() * 1e6) % 2**31)
        frames, side = clips.shape[2], clips.shape[3]
        keep = (torch.rand(len(clips), frames, side, side, generator=draw) < 0.5).to(torch.uint8)
        if self.tells:
            keep[:, :, :4, :4] = (clips[:, 0].mean((1, 2, 3)) > 0.5).to(torch.uint8)[:, None, None, None]
        return Painted(torch.rand(clips.shape, generator=draw) / 2 + 0.25, keep.flatten(2))


@pytest.mark.parametrize("tells", [True, False])
def test_what_a_mask_tells_is_found_and_noise_is_at_the_floor(tells, tmp_path, monkeypatch):
    clips = noise_clips(NUM)
    actions, attributes = random_labels(NUM)
    for split, frames in clips.items():
        frames //= 2
        frames[attributes[split][:, 0] == 1] += 100
    monkeypatch.setitem(baselines.BASELINES, "dropping", lambda: Dropping(tells))
    params = tiny_params(min_epochs=1, max_epochs=1, kinds=("linear",), extra=("mask",))
    judgement = judge("dropping", params, write_dataset(tmp_path, clips, actions, attributes), tmp_path, tmp_path / "cache", one_by_one)
    (point,) = judgement.points
    (mask,) = (result for result in point.privacy if result.name == "privacy-mask")
    present = judgement.released[None].labels("test").present
    if tells:
        assert average_precisions(mask.test, present)[0] > 0.95
        assert average_precisions(mask.test, present)[1] < 0.75  # of the other attribute it says nothing
    else:
        metrics = write_results(judgement, params, tmp_path / "results", None)
        low, high = interval(macro(resampled_aps(mask.test, present, resamples(np.arange(NUM["test"])))))
        assert low <= metrics["random_ranking_cmap"] <= high
        assert "privacy-mask" in json.loads((tmp_path / "results/metrics.json").read_text())["attackers"]


def test_another_draw_of_the_noise_is_the_same_mask(shards, tmp_path):
    job = release_job(shards, tmp_path, "stprivacy", kept_share=SHARE, model=tiny_model(tmp_path / "model", Channel(noise=0.2)))
    folder = release(job)
    first, second = (MaskJob(folder, seed).run() for seed in (0, 1))
    assert np.array_equal(first.test, second.test)
