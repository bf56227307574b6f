"""The rules of the game (paper §3.4): who minimises what. Knows nothing of engines, workers, files or MLflow.

    init         the anonymizer player learns to drop tubelets and still show the action; no adversary yet
    adversarial  anonymizer player: L_spars + action_weight · L_action + privacy_weight · (privacy objective), adversaries frozen;
                 adversary player: its own cross-entropy on released clips, detached

B clips of this part, G clips of the global batch, A attributes, C actions, F features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stprivacy.config import Channel, Clip, Recognizers, Train
from stprivacy.models.anonymizer import Anonymizer, Painted, expand_keep
from stprivacy.models.anonymizers import AnyAnonymizer
from stprivacy.models.channel import transmit
from stprivacy.models.checkpoints import fresh_recognizer
from stprivacy.models.recognizers import clip_statistics
from stprivacy.randomness import keyed_generator, keyed_gumbel, keyed_normal, keyed_seed
from stprivacy.training import objectives
from stprivacy.training.closed_form import ClosedFormAdversary
from stprivacy.training.replay import Entry, Replay

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """One of the equal parts of a global batch, in its order: worker by worker, micro-batch by micro-batch."""

    clips: Tensor  # (B, 3, T, H, W) in [0, 1]
    actions: Tensor  # (B,) int64, or (B, C) of 0/1 where clips have several
    attributes: Tensor  # (B, A) of 0/1
    samples: tuple[int, ...]  # which training clips these are: the key of their randomness
    step: int
    part: int = 0
    num_parts: int = 1
    peers: tuple[Tensor, ...] = ()  # features (G, F) of the global batch for the closed-form adversary, if looked up ahead
    strongest: int | None = None  # the adversary hardest to fool in the global batch, if looked up ahead


@dataclass(frozen=True)
class Recall:
    """Released clips for one turn of the adversary player: an entry an adversary."""

    clips: tuple[Tensor, ...]  # each (B, 3, T, H, W)
    attributes: tuple[Tensor, ...]  # each (B, A)


@dataclass
class Networks:
    """All that plays: one anonymizer, recognizers that want the same thing, recognizers that want the opposite."""

    anonymizer: AnyAnonymizer
    action: nn.Module
    adversaries: nn.ModuleList
    reference: nn.Module | None = None
    """The action recognizer as init left it, frozen: keeps the release readable to others than the co-trained one."""
    raw_trained: tuple[nn.Module, ...] = ()
    """Frozen privacy recognizers trained on raw clips, whose features the closed-form adversary reads."""


class Game:
    """The modules and the two losses. Each loss takes its part of a global batch and gives (scalar, flat metrics).

    `prior` (A,): each attribute's share of the training clips. `gather`: (B, …) of this worker → (W·B, …) of all workers
    in their order; the default is one worker alone.
    """

    def __init__(
        self,
        networks: Networks,
        train: Train,
        channel: Channel,
        clip: Clip,
        recognizers: Recognizers,
        prior: Tensor,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    ):
        self.networks, self.train, self.channel, self.clip, self.recognizers = networks, train, channel, clip, recognizers
        self.prior, self.gather = prior, gather
        self.closed_form = ClosedFormAdversary(train.game.closed_form, networks.raw_trained, recognizers, clip, len(prior), train.seed)
        self.replay = Replay(max((adversary.replay for adversary in train.game.adversaries), default=1))

    # ------------------------------------------------------------------------------------------------ the players' losses

    def init_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Phase 1, anonymizer player: ratio, polarisation, reconstruction of kept tubelets, action."""
        weights, keep_ratio = self.train.init, self._eased_keep_ratio(batch.step)
        painted = self._paint(batch, keep_ratio)
        released = self._release(painted, batch, noisy=False)
        keep = self._keep_pixels(painted, batch.clips)
        ease = objectives.ramp(batch.step - weights.full_steps, weights.ease_steps) if keep_ratio < 1 else 0.0
        loss, metrics = weighted_sum(
            {
                "action": (weights.action_weight, objectives.action_loss(run(self.networks.action, released), batch.actions)),
                "reconstruction": (
                    weights.reconstruction_weight,
                    objectives.reconstruction_loss(batch.clips, painted.pixels.float(), keep),
                ),
                "ratio": (self.train.ratio_weight, objectives.ratio_loss(painted.decisions, keep_ratio, self.train.ratio_per)),
                "polarisation": (self.train.polarisation_weight * ease, objectives.polarisation_loss(painted.probabilities)),
            }
        )
        return loss, metrics | {"keep/share": keep.mean()}

    def anonymizer_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Phase 2, anonymizer player: keep the action readable, leave nothing to the (frozen) adversaries."""
        train, game, networks = self.train, self.train.game, self.networks
        keep_ratio = self._keep_ratio(batch.step)
        painted = self._paint(batch, keep_ratio, exact=bool(game.sampled_kept_share))
        released = self._release(painted, batch, noisy=True)
        self.replay.add(batch.step, painted, batch.attributes, batch.samples)
        ease = objectives.ramp(batch.step, game.ramp_steps)
        networks.adversaries.requires_grad_(False)  # their weights are not this player's, and cost a third of the backward pass
        answers = [run(adversary, released) for adversary in networks.adversaries]
        networks.adversaries.requires_grad_(True)
        hidden = self._privacy_objectives(answers, batch)
        terms = {
            "action": (train.action_weight, objectives.action_loss(run(networks.action, released), batch.actions)),
            "privacy": (train.privacy_weight * ease, hidden.mean() if game.combine == "mean" else hidden[self._strongest(hidden, batch)]),
            "ratio": (train.ratio_weight, objectives.ratio_loss(painted.decisions, keep_ratio, train.ratio_per)),
            "polarisation": (train.polarisation_weight, objectives.polarisation_loss(painted.probabilities)),
        }
        if game.rate_weight:
            rate = objectives.rate_loss(painted.pixels.float(), self._keep_pixels(painted, batch.clips), self.channel.noise)
            terms["rate"] = (game.rate_weight * ease, rate)
        if networks.reference is not None:
            terms["reference"] = (game.reference_weight, objectives.action_loss(run(networks.reference, released), batch.actions))
        closed_form = self._closed_form_terms(released, batch, painted.keep)
        terms |= {name: (weight * ease, found) for name, (weight, found) in closed_form.items()}
        loss, metrics = weighted_sum(terms)
        with torch.no_grad():  # on clips that no adversary has trained on yet, so that it can be compared with a fresh attacker's
            metrics |= self._by_adversary("bce", [F.binary_cross_entropy_with_logits(answer, batch.attributes) for answer in answers])
        share = loss.new_ones(()) if painted.keep is None else painted.keep.detach().float().mean()
        return loss, metrics | {"keep/share": share}

    def adversary_loss(self, recall: Recall) -> tuple[Tensor, Metrics]:
        """Phase 2, adversary player: every adversary's own cross-entropy on released clips."""
        losses = [
            F.binary_cross_entropy_with_logits(run(adversary, clips), attributes)
            for adversary, clips, attributes in zip(self.networks.adversaries, recall.clips, recall.attributes, strict=True)
        ]
        return torch.stack(losses).sum(), self._by_adversary("bce_replayed", losses)

    def _privacy_objectives(self, answers: Sequence[Tensor], batch: Batch) -> Tensor:
        """(adversaries,): what the anonymizer minimises on each one's answer (B, A)."""
        objective = self.train.game.objective
        return torch.stack([objectives.privacy_objective(answer, batch.attributes, self.prior, objective) for answer in answers])

    def _strongest(self, hidden: Tensor, batch: Batch) -> int:
        """Which adversary is hardest to fool in the global batch; `hidden` (adversaries,) of this part."""
        if batch.strongest is not None:
            return batch.strongest
        return int(self.gather(hidden.detach()[None]).mean(0).argmax())

    def restart_adversaries(self, step: int) -> bool:
        """Begin all adversaries anew where `restart_every` says that it is time; gives whether it was.

        The draw is keyed by the step: the same weights on every worker and after a kill.
        """
        every = self.train.game.restart_every
        if not every or step == 0 or step % every:
            return False
        for index, adversary in enumerate(self.train.game.adversaries):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(keyed_seed("restart", self.train.seed, step, index))
                fresh = fresh_recognizer(adversary.kind, len(self.prior), self.recognizers, self.clip)
            self.networks.adversaries[index].load_state_dict(fresh.state_dict())
        return True

    def _by_adversary(self, figure: str, values: Sequence[Tensor]) -> Metrics:
        names = [f"attack/{index}-{adversary.kind}/{figure}" for index, adversary in enumerate(self.train.game.adversaries)]
        return {name: value.detach() for name, value in zip(names, values, strict=True)}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold beside weights and replay; the same on all workers."""
        return self.closed_form.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state()` gave."""
        self.closed_form.load(state)

    # ------------------------------------------------------------------------------------------------ what a batch shares

    def recall(self, step: int, turn: int, num_parts: int) -> list[Recall]:
        """What the adversary player sees at a turn, in `num_parts` micro-batches: turn 0 is the newest release, later ones replay.

        Each time the channel's noise is new and a random half of the clips is mirrored: adversaries that meet the same 1,440 clips
        every epoch otherwise know them by heart, and say little about new ones.
        """
        seen: dict[int, tuple[Tensor, Tensor]] = {}  # by reach into the past: adversaries of equal reach see the same clips
        for last in {adversary.replay for adversary in self.train.game.adversaries}:
            entry = self.replay.draw(last, turn, ("replay", self.train.seed, step, turn))
            seen[last] = self._seen_again(entry, ("recall", self.train.seed, step, turn)), entry.attributes
        drawn = [seen[adversary.replay] for adversary in self.train.game.adversaries]
        parts = [(clips.chunk(num_parts), attributes.chunk(num_parts)) for clips, attributes in drawn]
        return [Recall(tuple(c[i] for c, _ in parts), tuple(a[i] for _, a in parts)) for i in range(num_parts)]

    def _seen_again(self, entry: Entry, key: tuple[int | str, ...]) -> Tensor:
        """An entry of the replay through the channel once more, (b, 3, T, H, W)."""
        painted, samples = entry.painted(), entry.samples.tolist()
        noise = keyed_normal(painted.pixels.shape[1:], key, samples, painted.pixels.device) if self.channel.noise else None
        released = transmit(painted, self.channel, self.networks.anonymizer.tubelet, noise)
        if not self.train.game.mirror:
            return released
        mirrored = torch.tensor([keyed_seed(*key, "mirror", sample) % 2 for sample in samples], device=released.device, dtype=torch.bool)
        return torch.where(mirrored.view(-1, 1, 1, 1, 1), released.flip(-1), released)

    def look_ahead(self, parts: Sequence[Batch]) -> list[Batch]:
        """Give every micro-batch what couples the clips of a global batch: its peers' features, and who the strongest adversary is.

        One more forward pass without gradients, needed under gradient accumulation alone; since all randomness is keyed, the
        features are the ones that the pass with gradients sees again.
        """
        game, strongest = self.train.game, None
        attacked = game.closed_form.plays
        if len(parts) == 1 or not (attacked or game.combine == "strongest"):
            return list(parts)
        with torch.no_grad():
            seen, hidden = [], []
            for part in parts:
                painted = self._paint(part, self._keep_ratio(part.step), exact=bool(game.sampled_kept_share))
                released = self._release(painted, part, noisy=True)
                seen.append([*(self._closed_form_features(released, part.step, painted.keep) if attacked else ()), part.attributes])
                if game.combine == "strongest":
                    answers = [run(adversary, released) for adversary in self.networks.adversaries]
                    hidden.append(self._privacy_objectives(answers, part))
            if hidden:
                strongest = self._strongest(torch.stack(hidden).mean(0), parts[0])
            peers = tuple(self.gather(torch.cat(rows)) for rows in zip(*seen, strict=True)) if attacked else ()
        return [replace(part, peers=peers, strongest=strongest) for part in parts]

    def _closed_form_terms(self, released: Tensor, batch: Batch, keep: Tensor | None) -> dict[str, tuple[float, Tensor]]:
        """Terms of the loss, weight and value, by name: what a regression reads from features of the release, and from the mask alone."""
        settings, masked = self.train.game.closed_form, bool(self._mask_features(keep))
        if not (settings.weight or masked):
            return {}
        found = self._closed_form_r2(released, batch, keep).relu()
        terms = {"closed_form": (settings.weight, found[: len(found) - masked].mean())} if settings.weight else {}
        return terms | ({"mask": (settings.mask_weight, found[-1].mean())} if masked else {})

    def _closed_form_r2(self, released: Tensor, batch: Batch, keep: Tensor | None = None) -> Tensor:
        """R² of the closed-form adversary, (feature sets, A), over the global batch, with gradients to this part's release and mask."""
        live = self._closed_form_features(released, batch.step, keep)
        *features, attributes = batch.peers or tuple(self.gather(rows.detach()) for rows in [*live, batch.attributes])
        coupled = [in_global_batch(mine, peers, batch) for mine, peers in zip(live, features, strict=True)]
        return self.closed_form.r2(coupled, attributes, batch.step)

    def _closed_form_features(self, released: Tensor, step: int, keep: Tensor | None = None) -> list[Tensor]:
        """What the closed-form adversary reads: a feature set (B, F) a network, then the statistics and the mask, where they are on."""
        settings, sets = self.train.game.closed_form, []
        if settings.weight:
            sets = [_features(network, released) for network in self.closed_form.networks(step, *where(self.networks.action))]
            sets += [clip_statistics(released)] if settings.statistics else []
        return sets + self._mask_features(keep)

    def _mask_features(self, keep: Tensor | None) -> list[Tensor]:
        """Of keep decisions (B, L, N): in how many slices each place is kept and how often that changes, (B, 2·N); none where it is off."""
        if keep is None or not self.train.game.closed_form.mask_weight:
            return []
        keep = keep.float()
        now, then = keep[:, :-1], keep[:, 1:]
        change = now + then - 2 * now * then  # |then − now| of 0/1, but with a slope where nothing changes, too
        change = change if len(keep[0]) > 1 else torch.zeros_like(keep)
        return [torch.cat([keep.mean(1), change.mean(1)], 1)]

    # ------------------------------------------------------------------------------------------------ from clip to release

    def _paint(self, batch: Batch, keep_ratio: float, exact: bool = False) -> Painted:
        anonymizer = self.networks.anonymizer
        device, dtype = where(anonymizer)
        if not isinstance(anonymizer, Anonymizer):
            frame_painted: Painted = anonymizer(batch.clips.to(dtype))
            return frame_painted
        gumbel = keyed_gumbel(anonymizer.gumbel_shape, ("gumbel", self.train.seed, batch.step), batch.samples, device)
        return anonymizer(batch.clips.to(dtype), keep_ratio, gumbel, exact=exact)

    def _release(self, painted: Painted, batch: Batch, noisy: bool) -> Tensor:
        key = ("channel", self.train.seed, batch.step)
        noise = keyed_normal(batch.clips.shape[1:], key, batch.samples, batch.clips.device) if noisy and self.channel.noise else None
        return transmit(painted, self.channel, self.networks.anonymizer.tubelet, noise)

    def _keep_pixels(self, painted: Painted, clips: Tensor) -> Tensor:
        """(B, 1, T, H, W) of 0/1."""
        if painted.keep is None:
            return torch.ones_like(clips[:, :1])
        return expand_keep(painted.keep.float(), self.networks.anonymizer.tubelet, (clips.shape[-2], clips.shape[-1]))

    def _keep_ratio(self, step: int) -> float:
        """Phase 2: the anonymizer's own, or this step's draw, the same in every part of the global batch."""
        anonymizer, shares = self.networks.anonymizer, self.train.game.sampled_kept_share
        if not shares or not anonymizer.num_sparsifications:
            return anonymizer.keep_ratio
        low, high = shares
        drawn = torch.rand((), generator=keyed_generator("kept share", self.train.seed, step)).item()
        return (low + (high - low) * drawn) ** (1 / anonymizer.num_sparsifications)

    def _eased_keep_ratio(self, step: int) -> float:
        """Init: 1 for `full_steps`, then the kept share falls linearly to its target over `ease_steps`."""
        init, target = self.train.init, self.networks.anonymizer.keep_ratio
        num_blocks = self.networks.anonymizer.num_sparsifications
        if step < init.full_steps or num_blocks == 0:
            return 1.0
        share = 1 - (1 - target**num_blocks) * objectives.ramp(step - init.full_steps, init.ease_steps)
        return share ** (1 / num_blocks)


def run(network: nn.Module, clips: Tensor) -> Tensor:
    """Logits in fp32 of a network that may be kept in bf16."""
    return network(clips.to(where(network)[1])).float()


def _features(network: nn.Module, clips: Tensor) -> Tensor:
    features: Tensor = network.features(clips.to(where(network)[1]))  # type: ignore[operator]  # (B, F)
    return features.float()


def where(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameter = next(network.parameters())
    return parameter.device, parameter.dtype


def in_global_batch(mine: Tensor, peers: Tensor, batch: Batch) -> Tensor:
    """`peers` (G, F) with this part's rows alive: `mine` (B, F).

    Engines average gradients over parts, while a loss of the whole batch, computed alike in every part, wants their sum:
    so this part's gradient counts `num_parts` times. The values are untouched.
    """
    first = batch.part * len(mine)
    alive = batch.num_parts * mine - (batch.num_parts - 1) * mine.detach()
    return torch.cat([peers[:first], alive, peers[first + len(mine) :]])


def weighted_sum(terms: dict[str, tuple[float, Tensor]]) -> tuple[Tensor, Metrics]:
    """Σ weight · value over named (weight, value) terms, and the values as `loss/<name>` metrics."""
    device = terms["action"][1].device  # a term without anything to punish is a zero on the CPU
    total = torch.stack([weight * value.to(device) for weight, value in terms.values()]).sum()
    metrics = {f"loss/{name}": value.detach() for name, (_, value) in terms.items()}
    return total, metrics | {"loss/total": total.detach()}
