"""candidate → challenger → champion, and when a version is refused: worse on the policy than the champion, beyond the seeds' spread.

The policy asks for the least cMAP among those whose action figure reaches a bar, a share of raw video's. Only val figures count, as
they stand in the versions' tags.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from stprivacy.action_task import ONE_ACTION, ActionTask, task_of
from stprivacy.errors import RunError, UserError
from stprivacy.release.registry import ALIASES, CANDIDATE, CHALLENGER, CHAMPION, Version, connected, list_versions, with_alias

UNKNOWN_SPREAD = 0.02
"""Assumed where a version was judged with one seed. It is a convention and not a measurement: whoever relies on it is told so."""


@dataclass(frozen=True)
class Standing:
    """A version's val figures."""

    origin: str
    action: float
    cmap: float
    bar: float
    """Least action figure that the policy of its registration asked for."""
    judged_on: str
    """Equal where figures can be compared: the same clips, the same attackers."""
    spread_action: float | None
    spread_cmap: float | None
    task: ActionTask = ONE_ACTION

    @classmethod
    def of(cls, version: Version) -> "Standing":
        """Raises UserError when a version lacks the tags that `register` writes."""
        tags, task = version.tags, task_of(version.tags)
        names = task.named(("val_action_top1", "val_privacy_cmap", "least_val_action_top1"))
        try:
            action, cmap, bar = (float(tags[name]) for name in names)
            spreads = [float(tags[name]) if name in tags else None for name in (f"spread_{names[0]}", f"spread_{names[1]}")]
            return cls(version.origin, action, cmap, bar, tags["judged_on"], spreads[0], spreads[1], task)
        except (KeyError, ValueError) as error:
            raise UserError(f"{version.origin}: tag {error} is missing or no number; `dvc repro -f register` writes them") from None


@dataclass(frozen=True)
class Comparison:
    """A newcomer beside the champion."""

    objection: str | None
    """Why it should not replace the champion; None if nothing speaks against it."""
    assumed: bool
    """Whether UNKNOWN_SPREAD stood in for a spread that nobody measured."""


def compare(newcomer: Standing, champion: Standing) -> Comparison:
    """Is the newcomer worse on its own policy than the champion, by more than the larger of their spreads?

    Below the bar, while the champion reaches it; both above it, with a higher cMAP; both below it, with less action.
    """
    assumed = None in (newcomer.spread_action, newcomer.spread_cmap, champion.spread_action, champion.spread_cmap)
    if newcomer.judged_on != champion.judged_on:
        return Comparison(f"other clips or attackers judged it than {champion.origin}, so their figures cannot be compared", assumed)
    action_spread = max(_known(newcomer.spread_action), _known(champion.spread_action))
    cmap_spread = max(_known(newcomer.spread_cmap), _known(champion.spread_cmap))
    objection = None
    if champion.action >= newcomer.bar and newcomer.action < newcomer.bar - action_spread:
        objection = (
            f"its val action {newcomer.task.title} {newcomer.action:.3f} is below the policy's {newcomer.bar:.3f} by more than the spread "
            f"{action_spread:.3f}, and {champion.origin} has {champion.action:.3f}"
        )
    elif champion.action < newcomer.bar and newcomer.action < min(newcomer.bar, champion.action - action_spread):
        objection = (
            f"neither reaches the policy's action {newcomer.bar:.3f}, and its val action {newcomer.task.title} {newcomer.action:.3f} is "
            f"below {champion.action:.3f} of {champion.origin} by more than the spread {action_spread:.3f}"
        )
    elif champion.action >= newcomer.bar and newcomer.cmap > champion.cmap + cmap_spread:
        objection = (
            f"its val cMAP {newcomer.cmap:.3f} is above {champion.cmap:.3f} of {champion.origin} by more than the spread {cmap_spread:.3f}"
        )
    return Comparison(objection, assumed)


def _known(spread: float | None) -> float:
    return UNKNOWN_SPREAD if spread is None else spread


def promote(name: str, to: str | None, force: bool) -> list[str]:
    """Give the next alias to the version whose turn it is; gives what happened, in lines.

    `to`: challenger (the candidate becomes it), champion (the challenger becomes it), None for whichever is next. The candidate stays
    the candidate, since it is what the policy chose last; a challenger that becomes champion is none any more. Raises UserError
    when nobody's turn it is, RunError when the version is worse than the champion and `force` is not given.
    """
    with connected() as client:
        versions = list_versions(client, name)
        candidate, challenger, champion = (with_alias(versions, alias) for alias in ALIASES)
        if to is None:
            to = CHALLENGER if candidate and candidate not in (challenger, champion) else CHAMPION
        version = candidate if to == CHALLENGER else challenger
        if version is None and champion and candidate == champion:
            return [f"{champion.origin}: it is the champion, and nothing newer waits"]
        if version is None:
            missing, mend = (CANDIDATE, "dvc repro register") if to == CHALLENGER else (CHALLENGER, f"stprivacy promote --to {CHALLENGER}")
            raise UserError(f"models:/{name}: there is no {missing}; `{mend}` makes one")
        if version in (champion, challenger if to == CHALLENGER else None):
            return [f"{version.origin}: nothing to do"]
        lines, objection = _weighed(version, champion)
        if objection and not force:
            raise RunError(f"{version.origin}: not promoted to {to}: {objection}; --force promotes it all the same")
        before = challenger if to == CHALLENGER else champion
        client.set_registered_model_alias(name, to, str(version.number))
        if to == CHAMPION:
            client.delete_registered_model_alias(name, CHALLENGER)
        record = datetime.now(UTC).isoformat(timespec="seconds") + (f", forced although {objection}" if objection else "")
        client.set_model_version_tag(name, str(version.number), f"promoted.{to}", record)
    replaced = f", in place of version {before.number}" if before else ""
    return [*lines, f"models:/{name}/{version.number} is now {to}{replaced}"]


def _weighed(version: Version, champion: Version | None) -> tuple[list[str], str | None]:
    """What to tell of the comparison, and the objection, if there is one."""
    newcomer = Standing.of(version)
    if champion is None:
        return [f"no {CHAMPION} yet to compare {version.origin} with"], None
    holder = Standing.of(champion)
    comparison = compare(newcomer, holder)
    figures = [f"{one.origin} action {one.action:.3f}, cMAP {one.cmap:.3f}" for one in (newcomer, holder)]
    lines = [f"val: {'; '.join(figures)}; the policy asks for action {newcomer.bar:.3f}"]
    if comparison.assumed:
        lines.append(f"note: judged with one seed, so its spread is unknown; {UNKNOWN_SPREAD:g} is assumed")
    objection = comparison.objection
    if objection and comparison.assumed and newcomer.judged_on == holder.judged_on:
        objection += f" (assumed to be {UNKNOWN_SPREAD:g} where one seed leaves it unknown)"
    return lines, objection
