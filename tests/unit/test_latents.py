"""What latents tell is found, by the attackers that can find it; what they don't tell is not found."""

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
import torch

from stprivacy.evaluation import latents
from stprivacy.evaluation.fitting import judge
from stprivacy.evaluation.latents import KINDS, attack_latents
from stprivacy.evaluation.metrics import Labels, average_precisions
from stprivacy.randomness import keyed_normal

NUM = {"train": 300, "val": 300, "test": 400}
NUM_LATENTS, NOISE = 4, 0.1


@dataclass
class Latents:
    """A release as the attack reads it: every clip has a place (n, Z), and its latents are drawn around that."""

    places: dict[str, np.ndarray]
    attributes: dict[str, np.ndarray]
    views: tuple[int, ...] = (0, 1)
    """Those that are shown of two."""

    def labels(self, split: str) -> Labels:
        return Labels(np.zeros(len(self.attributes[split]), int), self.attributes[split])

    def training_labels(self) -> Labels:
        return self.labels("train")

    @property
    def num_training_rows(self) -> int:
        return len(self.places["train"])

    def codes(self, split: str) -> np.ndarray:
        noise = keyed_normal((2, NUM_LATENTS), ("codes", split), range(len(self.places[split]))).numpy()
        return (self.places[split][:, None] + NOISE * noise)[:, self.views].astype(np.float32)

    def training_code(self, rows: np.ndarray, seed: int, epoch: int) -> torch.Tensor:
        noise = keyed_normal((NUM_LATENTS,), ("attack", seed, epoch), rows.tolist())
        return torch.from_numpy(self.places["train"][rows]).float() + NOISE * noise


def made(seed: int = 0) -> Latents:
    """Attribute 0 is the sign of a latent, 1 whether the signs of two others differ, 2 and 3 are coin flips."""
    draw = np.random.default_rng(seed)
    places = {split: draw.standard_normal((count, NUM_LATENTS)) for split, count in NUM.items()}
    return Latents(places, {
        split: np.stack([z[:, 0] > 0, (z[:, 1] > 0) != (z[:, 2] > 0), *(draw.random((2, len(z))) < 0.5)], axis=1).astype(float)
        for split, z in places.items()
    })  # fmt: skip


@pytest.fixture(scope="module")
def found():
    released = made()
    return {kind: attack_latents(released, 0, kind) for kind in KINDS}


def precisions(result) -> np.ndarray:
    return average_precisions(result.test, made().labels("test").present)


def test_a_sign_is_found_by_every_kind(found):
    for kind in KINDS:
        assert precisions(found[kind])[0] > 0.95, kind


def test_an_interaction_is_found_by_all_but_logistic_regression(found):
    of_kind = {kind: precisions(found[kind])[1] for kind in KINDS}
    assert of_kind.pop("logistic") < 0.65
    assert min(of_kind.values()) > 0.9, of_kind


def test_independent_attributes_are_at_chance(found):
    shares = made().attributes["test"].mean(0)
    for kind in KINDS:
        assert np.abs(precisions(found[kind]) - shares)[2:].max() < 0.12, kind


def test_a_result_is_like_any_other_privacy_attackers(found):
    assert get_args(latents.Kind) == KINDS
    for kind, result in found.items():
        assert (result.name, result.target, result.kind, result.seed) == (f"privacy-latents-{kind}", "privacy", "latents", 0)
        assert result.fitted
        assert result.weights is None
        assert [row.epoch for row in result.curve] == list(range(1, len(result.curve) + 1))
        assert result.train_loss == result.curve[-1].train_loss
        for split in ("val", "test"):
            answer = getattr(result, split)
            assert answer.shape == (NUM[split], 4)
            assert answer.dtype == np.float64
            assert ((answer >= 0) & (answer <= 1)).all()
        # What is answered is what val chose, and the curve says what it was worth.
        chosen = result.curve[result.best_epoch - 1]
        assert judge(result.val, made().labels("val"), "privacy") == pytest.approx((chosen.val_score, chosen.val_loss))
        assert result.val_score == chosen.val_score == max(row.val_score for row in result.curve)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_answers(found, kind):
    np.random.seed(5)
    torch.manual_seed(5)
    again = attack_latents(made(), 0, kind)
    assert again.curve == found[kind].curve
    assert np.array_equal(again.val, found[kind].val)
    assert np.array_equal(again.test, found[kind].test)


def test_another_seed_is_another_draw(found):
    assert not np.array_equal(attack_latents(made(), 1, "logistic").test, found["logistic"].test)


def test_answers_to_several_views_are_averaged(monkeypatch):
    monkeypatch.setattr(latents, "LOGISTIC_STRENGTHS", (1.0,))  # no choice: whatever is shown of val, the fit is the same
    both, first, second = (attack_latents(replace(made(), views=views), 0, "logistic") for views in ((0, 1), (0,), (1,)))
    for split in ("val", "test"):
        of_both, of_first, of_second = (getattr(result, split) for result in (both, first, second))
        assert np.allclose(of_both, (of_first + of_second) / 2, rtol=0, atol=1e-12)
        assert not np.allclose(of_first, of_second, rtol=0, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attribute_of_one_class_in_training_is_answered_with_its_share(kind, monkeypatch):
    """Whether some attributes, one or none is left to learn; the settings that are tried don't matter here."""
    for name in ("KERNEL_STRENGTHS", "WIDTHS", "ROUNDS", "WEIGHT_PENALTIES", "EPOCHS"):
        monkeypatch.setattr(latents, name, getattr(latents, name)[:1])
    for varying in ([0, 3], [0], []):
        released = made()
        constant = [column for column in range(4) if column not in varying]
        released.attributes["train"][:, constant] = np.arange(len(constant)) % 2  # no window has the first, every one the second, and so on
        result = attack_latents(released, 0, kind)
        assert (result.test[:, constant] == np.arange(len(constant)) % 2).all()
        if 0 in varying:
            assert precisions(result)[0] > 0.9
        assert np.isfinite(result.val_score)


def test_a_label_above_one_half_counts_as_present():
    """Labels may be shares."""
    halved, whole = made(), made()
    halved.attributes["train"] = halved.attributes["train"] / 2 + 0.25  # 0.25 and 0.75
    assert np.array_equal(attack_latents(halved, 0, "logistic").test, attack_latents(whole, 0, "logistic").test)
