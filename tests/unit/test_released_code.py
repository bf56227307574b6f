"""What attackers get of a bounded release: fresh draws for training, one draw of val and test, the latents themselves, its bits."""

import json

import numpy as np
import pytest
import torch

from stprivacy.config import Channel, Model
from stprivacy.evaluation.judge import KINDS, judge
from stprivacy.evaluation.released import Released, release
from stprivacy.evaluation.results import write_results
from stprivacy.models.checkpoints import load_anonymizer, save_model
from stprivacy.models.code import NATS_PER_BIT, CodeAnonymizer
from tests.unit.evaluation_files import CLIP, noise_clips, one_by_one, random_labels, release_job, tiny_params, write_dataset

SIZES = {"train": 24, "val": 12, "test": 16}
MODEL = Model(release="code", latents=3, tubelet=(2, 8, 8), width=16, depth=3, num_heads=2, keep_ratio=0.8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), noise_clips(SIZES), *random_labels(SIZES))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sections = {"model": MODEL, "channel": Channel(noise=0.0), "clip": CLIP}
    anonymizer = CodeAnonymizer(MODEL, CLIP)
    torch.nn.init.normal_(anonymizer.head_code.weight, std=0.3)  # so that latents say something
    save_model(folder, anonymizer, {name: section.model_dump(mode="json") for name, section in sections.items()})
    return folder


@pytest.fixture(scope="module")
def released(shards, model, tmp_path_factory):
    return Released(release(release_job(shards, tmp_path_factory.mktemp("cache"), "stprivacy", model=model, kept_share=0.64)))


def test_attackers_train_on_fresh_draws_and_a_draw_can_be_had_again(released):
    rows = np.arange(6)
    first = released.training_batch(rows, 0, 0)
    assert first.shape == (6, 3, CLIP.num_frames, CLIP.size, CLIP.size)
    assert torch.equal(first, released.training_batch(rows, 0, 0))
    assert not torch.equal(first, released.training_batch(rows, 0, 1))
    assert torch.equal(first[2:3], released.training_batch(rows[2:3], 0, 0))


def test_what_is_shown_is_painted_from_the_latents_that_are_given_to_attackers(released):
    painter = load_anonymizer(released.folder)[0]
    for split in ("val", "test"):
        latents = torch.from_numpy(released.codes(split)[:, 0])
        with torch.no_grad():
            expected = (painter.paint(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
        assert np.abs(expected.astype(int) - released.views(split)[:, 0]).max() <= 1
    rows = np.arange(4)
    with torch.no_grad():
        assert torch.allclose(painter.paint(released.training_code(rows, 0, 3)), released.training_batch(rows, 0, 3), atol=1 / 255)


def test_bits_are_the_rate_of_every_view(released, shards, model):
    bits = released.bits("test")
    assert bits.shape == (SIZES["test"], 1)
    anonymizer = load_anonymizer(model)[0]
    clips = torch.from_numpy(noise_clips(SIZES)["test"]).permute(0, 4, 1, 2, 3).float() / 255
    with torch.no_grad():
        expected = anonymizer.code(clips, 0.64**0.5).rate() / NATS_PER_BIT
    assert sorted(bits[:, 0].tolist()) == pytest.approx(sorted(expected.tolist()), rel=1e-3)


def test_other_releases_have_no_bits(shards, tmp_path):
    raw = Released(release(release_job(shards, tmp_path)))
    assert not raw.has_code and raw.bits("test") is None


def test_a_judgement_has_the_rate_and_attackers_on_latents(shards, model, tmp_path):
    params = tiny_params(extra=("ensemble", "mask", "latents"))
    params = params.model_copy(update={"model": MODEL.model_copy(update={"keep_ratio": 0.5**0.5})})
    found = judge("stprivacy", params, shards, model, tmp_path / "cache", one_by_one)
    names = {result.name for result in found.points[0].privacy}
    assert {f"privacy-latents-{kind}" for kind in KINDS} <= names
    assert "privacy-mask" not in names
    write_results(found, params, tmp_path / "results", None)
    metrics = json.loads((tmp_path / "results/metrics.json").read_text())
    rate = metrics["rate"]
    assert rate["interval"][0] <= rate["bits_per_clip"] <= rate["interval"][1] <= rate["bits_largest"]
    assert rate["ceiling"].keys() == metrics["privacy"]["ap"].keys()
    assert all(0.5 <= value <= 1 for value in rate["ceiling"].values())
    elsewhere = params.model_copy(update={"dataset": params.dataset.model_copy(update={"kind": "folder"})})
    assert write_results(found, elsewhere, tmp_path / "elsewhere", None)["rate"]["bits_of_action"] == 0  # a bit may be of both there
    header, first, *_ = (tmp_path / "results/points.csv").read_text().splitlines()
    assert float(first.split(",")[header.split(",").index("bits")]) == pytest.approx(rate["bits_per_clip"])
