"""Which configurations a sweep tries: a grid, random draws, or Optuna's proposals. Knows nothing of Ray and nothing of training.

Every drawn number is rounded to three digits, so that a trial's name says exactly what it is.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from stprivacy.config import Range, Sweep
from stprivacy.config.training import Values
from stprivacy.randomness import keyed_generator
from stprivacy.training.run_storage import bring_file, keep_file

Setting = tuple[float, float, float]
"""Kept share, privacy weight and action weight: what is searched. A grid counts like this, too: the last changes fastest."""
MOST_TRIES = 100
"""Draws without a new configuration after which there are none left, as with short lists."""
Objectives = tuple[float, float]
"""Val action top-1 (up) and val leak above the action-only floor (down)."""


@dataclass(frozen=True)
class Configuration:
    """What sets a trial apart."""

    kept_share: float
    privacy_weight: float
    action_weight: float
    seed: int

    @property
    def name(self) -> str:
        """Such as `share-0.4_privacy-15_action-1_seed-0`."""
        return f"share-{self.kept_share:g}_privacy-{self.privacy_weight:g}_action-{self.action_weight:g}_seed-{self.seed}"

    @property
    def setting(self) -> Setting:
        """The configuration without its seed."""
        return self.kept_share, self.privacy_weight, self.action_weight


class Space(Protocol):
    """A source of configurations. With several seeds, each seed of a configuration follows the other."""

    def __next__(self) -> Configuration:
        """The next one; StopIteration when there are no more."""

    def tell(self, configuration: Configuration, found: Objectives | None) -> None:
        """What a trial of it found; None for one that failed or was stopped."""


def open_space(sweep: Sweep, seed: int, folder: Path) -> Space:
    """The space of `sweep`; `seed` draws from ranges, and in `folder` a search that learns keeps what it has proposed."""
    if sweep.search == "optuna":
        return OptunaSpace(sweep, seed, folder / "proposals.jsonl")
    return ListedSpace(iter(grid(sweep) if sweep.search == "grid" else random_draws(sweep, seed)))


def grid(sweep: Sweep) -> list[Configuration]:
    """All combinations of the lists, cut at `num_trials`; each with every seed."""
    lists = _listed(sweep.kept_share), _listed(sweep.privacy_weight), _listed(sweep.action_weight)
    settings = list(dict.fromkeys(itertools.product(*lists)))[: sweep.num_trials]
    return [Configuration(*setting, seed) for setting in settings for seed in sweep.seeds]


def _listed(values: Values) -> tuple[float, ...]:
    assert not isinstance(values, Range), "params.yaml is refused with a range in a grid"
    return values


def random_draws(sweep: Sweep, seed: int) -> list[Configuration]:
    """`num_trials` different draws (fewer where lists have fewer combinations), each with every seed."""
    generator = keyed_generator("sweep", seed)
    drawn: dict[Setting, None] = {}
    for _ in range(MOST_TRIES * sweep.num_trials):
        if len(drawn) == sweep.num_trials:
            break
        setting = _draw(sweep.kept_share, generator), _draw(sweep.privacy_weight, generator), _draw(sweep.action_weight, generator)
        drawn[setting] = None
    return [Configuration(*setting, seed) for setting in drawn for seed in sweep.seeds]


def _draw(values: Values, generator: torch.Generator) -> float:
    uniform = torch.rand((), generator=generator, dtype=torch.float64).item()
    if not isinstance(values, Range):
        return values[int(uniform * len(values))]
    drawn = values.low * (values.high / values.low) ** uniform if values.log else values.low + (values.high - values.low) * uniform
    return _rounded(drawn, values)


def _rounded(value: float, within: Range) -> float:
    """To three digits: 0.123456 → 0.123."""
    return min(max(float(f"{value:.3g}"), within.low), within.high)


@dataclass
class ListedSpace:
    """Configurations that are known beforehand; what is found changes nothing."""

    listed: Iterator[Configuration]

    def __next__(self) -> Configuration:
        return next(self.listed)

    def tell(self, configuration: Configuration, found: Objectives | None) -> None:
        pass


@dataclass
class OptunaSpace:
    """Optuna's multi-objective TPE, asked and told one configuration at a time.

    What it proposed is kept in a file, of a job in the storage, too. A sweep that was killed proposes the same again, in the same order,
    before anything new: so finished trials are found finished, and Optuna hears of them as before.
    """

    sweep: Sweep
    seed: int
    proposals: Path
    _waiting: list[Configuration] = field(default_factory=list)
    _open: dict[Setting, "_Asked"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Random draws first: TPE has nothing to learn from before it has seen a few configurations.
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=max(3, self.sweep.num_trials // 4))
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        bring_file(self.proposals)
        for line in self.proposals.read_text().splitlines() if self.proposals.exists() else []:
            self._study.enqueue_trial(json.loads(line), skip_if_exists=True)
        self._num_kept = len(self._study.trials)

    def __next__(self) -> Configuration:
        if not self._waiting:
            setting = self._ask()
            self._waiting = [Configuration(*setting, seed) for seed in self.sweep.seeds]
        return self._waiting.pop(0)

    def tell(self, configuration: Configuration, found: Objectives | None) -> None:
        """Optuna hears the mean over the seeds, once all have ended."""
        asked = self._open[configuration.setting]
        asked.num_ended += 1
        if found is not None:
            asked.found.append(found)
        if asked.num_ended == len(self.sweep.seeds):
            self._finish(asked)

    def _ask(self) -> Setting:
        """A new setting, kept in the file before anything is made of them."""
        if len(self._open) == self.sweep.num_trials:
            raise StopIteration
        for _ in range(MOST_TRIES):
            trial = self._study.ask()
            setting = (
                _suggest(trial, "kept_share", self.sweep.kept_share),
                _suggest(trial, "privacy_weight", self.sweep.privacy_weight),
                _suggest(trial, "action_weight", self.sweep.action_weight),
            )
            if setting in self._open:
                self._finish(_Asked(trial, found=self._open[setting].found))  # the same again: told the same, so that it learns
                continue
            self._open[setting] = _Asked(trial)
            if len(self._open) > self._num_kept:
                self.proposals.parent.mkdir(parents=True, exist_ok=True)
                with open(self.proposals, "a") as file:
                    file.write(json.dumps(trial.params) + "\n")
                keep_file(self.proposals)
            return setting
        raise StopIteration

    def _finish(self, asked: "_Asked") -> None:
        from optuna.trial import TrialState

        if asked.found:
            self._study.tell(asked.trial, [_mean(values) for values in zip(*asked.found, strict=True)])
        else:
            self._study.tell(asked.trial, state=TrialState.FAIL)


@dataclass
class _Asked:
    """An open question to Optuna."""

    trial: Any
    num_ended: int = 0
    found: list[Objectives] = field(default_factory=list)


def _suggest(trial: Any, name: str, values: Values) -> float:
    if isinstance(values, Range):
        return _rounded(trial.suggest_float(name, values.low, values.high, log=values.log), values)
    return float(trial.suggest_categorical(name, values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
