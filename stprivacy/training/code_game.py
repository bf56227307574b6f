"""The rules by which a code is trained: paint the action and nothing else, in few bits (`models/code.py`).

    init    paint the target, keep the action readable; bits cost nothing yet
    game    the same, at a price for the rate, and with an adversary on the latents where there is one

There is no adversary player: the rate bounds what any of them can find. B clips of this part, G clips of the global batch, Z latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stprivacy.config import Train
from stprivacy.models.code import NATS_PER_BIT, Code, CodeAnonymizer
from stprivacy.randomness import keyed_generator, keyed_gumbel, keyed_normal
from stprivacy.training import objectives
from stprivacy.training.latents_adversary import LatentsAdversary
from stprivacy.training.targets import Target
from stprivacy.training.task import Batch, Metrics, Networks, in_global_batch, run, weighted_sum, where


class CodeGame:
    """The two losses. Each takes its part of a global batch and gives (scalar, flat metrics).

    `networks.action` reads latents, `networks.reference` is the recognizer that was trained on raw clips. `gather`: (B, …) of this worker →
    (W·B, …) of all workers in their order; the default is one worker alone.
    """

    def __init__(self, networks: Networks, train: Train, target: Target, gather: Callable[[Tensor], Tensor] = lambda rows: rows):
        self.networks, self.train, self.target, self.gather = networks, train, target, gather
        self.adversary = LatentsAdversary(train.code.ridge)

    def init_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Target, action, reference, ratio, polarisation."""
        code, latents = self._latents(batch, "init")
        return self._loss(batch, "init", code, latents, self.train.init.action_weight, {})

    def game_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The same at a price for bits, and for what an adversary reads from the latents."""
        settings = self.train.code
        code, latents = self._latents(batch, "game")
        ease = objectives.ramp(batch.step, settings.ramp_steps)
        terms = {"rate": (settings.rate_weight * ease, code.rate().mean())}
        if settings.adversary_weight:
            mine, peers = [latents, batch.attributes], batch.peers
            whole, attributes, samples = peers or tuple(self.gather(rows.detach()) for rows in [*mine, self._numbers(batch)])
            found = self.adversary.r2(in_global_batch(latents, whole, batch), attributes, samples.tolist(), batch.step)
            terms["latents"] = (settings.adversary_weight * ease, found.relu().mean())
        return self._loss(batch, "game", code, latents, self.train.action_weight, terms)

    def look_ahead(self, parts: Sequence[Batch]) -> list[Batch]:
        """Give every micro-batch the latents of the global batch, where the adversary wants them: a forward pass without gradients."""
        if len(parts) == 1 or not self.train.code.adversary_weight:
            return list(parts)
        with torch.no_grad():
            seen = [(self._latents(part, "game")[1], part.attributes, self._numbers(part)) for part in parts]
            peers = tuple(self.gather(torch.cat(rows)) for rows in zip(*seen, strict=True))
        return [replace(part, peers=peers) for part in parts]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold beside weights; the same on all workers."""
        return self.adversary.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state()` gave."""
        self.adversary.load(state)

    def _loss(
        self, batch: Batch, phase: str, code: Code, latents: Tensor, action_weight: float, more: dict[str, tuple[float, Tensor]]
    ) -> tuple[Tensor, Metrics]:
        networks, settings, encoded = self.networks, self.train.code, code.encoded
        assert networks.reference is not None and encoded is not None
        released = self._anonymizer.paint(latents)
        target = self.target(batch)
        answers = networks.action(latents.to(where(networks.action)[1])).float()
        keep_ratio = self._keep_ratio(batch.step, phase)
        terms = {
            "action": (action_weight, objectives.action_loss(answers, batch.actions)),
            "reconstruction": (settings.reconstruction_weight, (released[:, :1] - target).square().mean()),
            "reference": (settings.reference_weight, objectives.action_loss(run(networks.reference, released), batch.actions)),
            "ratio": (self.train.ratio_weight, objectives.ratio_loss(encoded.decisions, keep_ratio, self.train.ratio_per)),
            "polarisation": (self.train.polarisation_weight, objectives.polarisation_loss(encoded.probabilities)),
            **more,
        }
        loss, metrics = weighted_sum(terms)
        bits = code.rate().detach().mean() / NATS_PER_BIT
        return loss, metrics | {"rate/bits": bits, "keep/share": encoded.keep.detach().float().mean()}

    def _keep_ratio(self, step: int, phase: str) -> float:
        """In init nothing is dropped; in the game the kept share falls with the rise of the price."""
        num_blocks, share = self._anonymizer.num_sparsifications, self._anonymizer.config.kept_share
        if phase == "init" or not num_blocks:
            return 1.0
        return float((1 - (1 - share) * objectives.ramp(step, self.train.code.ramp_steps)) ** (1 / num_blocks))

    def _latents(self, batch: Batch, phase: str) -> tuple[Code, Tensor]:
        """The code of a batch and a draw of its latents (B, Z), each clip's randomness keyed by phase, step and clip."""
        anonymizer, device = self._anonymizer, batch.clips.device
        key = (phase, self.train.seed, batch.step)
        gumbel = keyed_gumbel(anonymizer.gumbel_shape, ("gumbel", *key), batch.samples, device) if anonymizer.num_sparsifications else None
        brightness = _other_colours(batch, ("colours", *key)) if self.train.code.colours else None
        code = anonymizer.code(batch.clips, self._keep_ratio(batch.step, phase), gumbel, brightness=brightness)
        return code, code.sample(keyed_normal((anonymizer.num_latents,), ("code", *key), batch.samples, device))

    @property
    def _anonymizer(self) -> CodeAnonymizer:
        anonymizer = self.networks.anonymizer
        assert isinstance(anonymizer, CodeAnonymizer)
        return anonymizer

    def _numbers(self, batch: Batch) -> Tensor:
        return torch.tensor(batch.samples, device=batch.clips.device)


def _other_colours(batch: Batch, key: tuple[int | str, ...]) -> Tensor:
    """Brightness (B, 1, T, S, S) of each clip under a random mixture of its colours, half of them as negatives, brighter or darker."""
    draws = torch.stack([torch.rand(6, generator=keyed_generator(*key, sample)) for sample in batch.samples]).to(batch.clips.device)
    mixture = draws[:, :3] / draws[:, :3].sum(1, keepdim=True)
    grey = torch.einsum("bcthw,bc->bthw", batch.clips, mixture)[:, None]
    negative, contrast, shift = (draws[:, place].view(-1, 1, 1, 1, 1) for place in (3, 4, 5))
    grey = torch.where(negative < 0.5, 1 - grey, grey)
    return (grey - 0.5) * (0.6 + 0.8 * contrast) + 0.5 + 0.3 * (shift - 0.5)
