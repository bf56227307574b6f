"""What a version's card says of its model and of who judged it, and when two versions' figures can be compared."""

import json

import pytest

from stprivacy.config import Channel, load_params
from stprivacy.models.anonymizers import build_anonymizer
from stprivacy.models.checkpoints import save_model
from stprivacy.release.card import Evidence, card
from stprivacy.release.points import FIGURES, Entry
from stprivacy.release.register import judged_on
from tests.unit.evaluation_files import CLIP, noise_clips, random_labels, tiny_model, write_dataset
from tests.unit.release_files import MODEL

FLOOR = {"action_top1": 0.1, "cmap": 0.5, "f1": 0.4, "ap": {}}
RAW = {"action": {"top1": 1.0}, "privacy": {"cmap": 0.9, "f1": 0.8, "ap": {}}, "attackers": {"action": {}, "privacy-cnn3d": {}},
       "floors": dict.fromkeys(("chance", "constant", "action_only"), FLOOR)}  # fmt: skip


def card_of(folder, params, kept_share=1.0):
    entry = Entry("hash", folder, kept_share, kept_share, 1.0, 12.0, dict.fromkeys(FIGURES, 0.6), {}, 1, ())
    return card(entry, Evidence(RAW, (), {"train": 8, "val": 2, "test": 2}), params)


@pytest.fixture(scope="module")
def params():
    return load_params()


def test_a_frame_network_is_not_called_stprivacy_and_keeps_no_tubelets(tmp_path, params):
    model = MODEL.model_copy(update={"kind": "unet", "base_width": 4})
    config = {name: section.model_dump(mode="json") for name, section in {"model": model, "channel": Channel(), "clip": CLIP}.items()}
    tmp_path.joinpath("unet").mkdir()
    save_model(tmp_path / "unet", build_anonymizer(model, CLIP), config)
    said = card_of(tmp_path / "unet", params)
    assert "Video anonymizer (unet)" in said and "nothing is dropped" in said and "tubelets" not in said
    assert "beside them ensemble, raw-trained)" in said  # where nothing is dropped there is no mask to attack
    assert "a share of 1.00 of the tubelets is kept and repainted" in card_of(tiny_model(tmp_path, Channel()), params)


def test_it_names_all_attackers_that_counted_and_the_codec_between(tmp_path, params):
    said = card_of(tiny_model(tmp_path, Channel()), params, kept_share=0.5)
    assert "(privacy-cnn3d, privacy-cnn2d, privacy-linear; beside them ensemble, raw-trained, mask)" in said
    assert "before a video codec" in said
    coded = params.model_copy(update={"channel": params.channel.model_copy(update={"codec_crf": 23})})
    assert "as H.264 at crf 23 leaves them" in card_of(tiny_model(tmp_path / "other", Channel()), coded)


def test_figures_behind_a_codec_are_not_comparable_with_others(tmp_path, params):
    sizes = {"train": 4, "val": 2, "test": 2}
    shards = write_dataset(tmp_path, noise_clips(sizes), *random_labels(sizes))
    coded = params.model_copy(update={"channel": params.channel.model_copy(update={"codec_crf": 23})})
    assert judged_on(coded, shards) != judged_on(params, shards)


def test_a_bounded_release_says_its_bits_and_names_the_attackers_that_it_had(tmp_path, params):
    extra = params.evaluate.attack.model_copy(update={"extra": ("mask", "latents")})
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"attack": extra})})
    bounded, tubelets = MODEL.model_copy(update={"release": "code", "identity_start": False}), MODEL
    texts = []
    for name, model in (("bounded", bounded), ("tubelets", tubelets)):
        (tmp_path / name).mkdir()
        sections = {"model": model, "channel": params.channel, "clip": CLIP}
        config = {section: found.model_dump(mode="json") for section, found in sections.items()}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        texts.append(card_of(tmp_path / name, params, kept_share=0.5))
    assert "0.6 bits a clip" in texts[0] and "beside them latents)" in texts[0] and "Bits add up" in texts[0]
    assert "bits a clip" not in texts[1] and "beside them mask)" in texts[1] and "release a clip once" in texts[1]
