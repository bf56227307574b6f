"""The front's learned points and the policy's choice become versions in the registry, the choice becomes candidate."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stprivacy.action_task import task_of
from stprivacy.config import Params, config_hash
from stprivacy.fingerprint import fingerprint
from stprivacy.release.card import Evidence, card
from stprivacy.release.package import log_package
from stprivacy.release.points import Entry, chosen, entries_of, read_points
from stprivacy.release.registry import CANDIDATE, connected, list_versions, with_alias
from stprivacy.tracking import Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NOTE = "mlflow.note.content"
"""The tag that MLflow's UI shows as a run's description."""
LINK = "Registered as "


def register(params: Params, run: Run, results: Path, shards: Path) -> dict[str, Any]:
    """Bring the registry up to date with `results`/pareto; gives what then stands there, which goes to register.json.

    What is registered already is not registered again: its figures, tags and card are brought up to date. Versions of earlier
    fronts stay. Raises UserError when results or models are missing, or the server refuses.
    """
    pareto = results / "pareto"
    points = read_points(pareto / "points.csv")
    choice = json.loads((pareto / "metrics.json").read_text())["choice"]
    entries = entries_of(points, choice)
    favourite = chosen(choice, entries)
    evidence = Evidence.read(results, shards)
    common = _common_tags(params, run, results, shards)
    name = params.registering.name
    with connected() as client:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=_about(name))
        for entry in entries:
            number, new = _version_of(client, name, entry, run.id)
            tags = _tags(entry) | common
            for tag, value in tags.items():
                client.set_model_version_tag(name, str(number), tag, value)
            client.update_model_version(name, str(number), description=card(entry, evidence, params))
            for run_id in entry.runs:
                _link(client, run_id, name, number)
            print(f"{name} version {number}{' (new)' if new else ''}: {entry.folder} at keep ratio {entry.keep_ratio:.4g}", flush=True)
        _set_candidate(client, name, favourite, choice)
        return _standing(client, name)


def _version_of(client: "MlflowClient", name: str, entry: Entry, run_id: str) -> tuple[int, bool]:
    """The number of the version with this content, registered now if there is none; and whether it is new."""
    known = next((version for version in list_versions(client, name) if version.tags.get("content_hash") == entry.content), None)
    if known:
        return known.number, False
    uri, model_id = log_package(run_id, entry.folder, entry.keep_ratio, entry.content)
    made = client.create_model_version(name, uri, run_id=run_id, model_id=model_id, tags={"content_hash": entry.content})
    return int(made.version), True


def _common_tags(params: Params, run: Run, results: Path, shards: Path) -> dict[str, str]:
    """Tags that all versions of one front share: what they were made from, and the bar that the policy sets."""
    lock = Path("dvc.lock")
    points = read_points(results / "evaluate" / "raw" / "points.csv")
    figure = task_of(points[0]).val_figure
    raw = [point[figure] for point in points]
    least = params.pareto.policy.least_action_of_raw * sum(raw) / len(raw)
    return {
        "dataset": params.dataset.name,
        "git.commit": run.client.get_run(run.id).data.tags["git.commit"],
        "dvc.lock_md5": hashlib.md5(lock.read_bytes()).hexdigest() if lock.exists() else "none",
        f"least_{figure}": _number(least),
        "judged_on": judged_on(params, shards),
    }


def judged_on(params: Params, shards: Path) -> str:
    """Equal where figures can be compared: the same clips, by the same attackers, with the same codec between."""
    codec = [] if params.channel.codec_crf is None else [f"codec {params.channel.codec_crf}"]
    return config_hash(params.evaluate.attack, params.recognizers, fingerprint(shards / "index.jsonl"), *codec)


def _tags(entry: Entry) -> dict[str, str]:
    numbers = {
        "keep_ratio": entry.keep_ratio,
        "kept_share": entry.kept_share,
        "action_weight": entry.action_weight,
        "privacy_weight": entry.privacy_weight,
        **entry.figures,
        **{f"spread_{name}": value for name, value in entry.spread.items()},
    }
    about = {"num_seeds": str(entry.num_seeds), "model_path": entry.folder.as_posix(), "runs": " ".join(entry.runs)}
    return {name: _number(value) for name, value in numbers.items()} | about


def _number(value: float) -> str:
    return f"{value:.6g}"


def _set_candidate(client: "MlflowClient", name: str, favourite: Entry | None, choice: dict[str, Any] | None) -> None:
    """The alias goes to the choice. Where that is no learned point it is taken away: an old candidate is not this policy's."""
    versions = list_versions(client, name)
    if favourite:
        number = next(version.number for version in versions if version.tags.get("content_hash") == favourite.content)
        client.set_registered_model_alias(name, CANDIDATE, str(number))
        print(f"{CANDIDATE}: version {number}", flush=True)
        return
    if with_alias(versions, CANDIDATE):
        client.delete_registered_model_alias(name, CANDIDATE)
    why = f"the policy chose {choice['method']}, which is not learned" if choice else "no point meets the policy"
    print(f"{CANDIDATE}: none, since {why}", flush=True)


def _link(client: "MlflowClient", run_id: str, name: str, number: int) -> None:
    """A line with a link to the version in the run's description, once."""
    from mlflow.exceptions import MlflowException

    try:
        note = client.get_run(run_id).data.tags.get(NOTE, "")
    except MlflowException:
        print(f"note: run {run_id} of points.csv is not on this tracking server, so it gets no link to version {number}", flush=True)
        return
    link = f"{LINK}[{name} version {number}](#/models/{name}/versions/{number})"
    others = [line for line in note.splitlines() if link not in line]
    client.set_tag(run_id, NOTE, "\n".join([*others, *([""] if others and others[-1] else []), link]))


def _standing(client: "MlflowClient", name: str) -> dict[str, Any]:
    """What stands in the registry."""
    versions = [
        {"version": version.number, "aliases": list(version.aliases), "tags": dict(sorted(version.tags.items()))}
        for version in list_versions(client, name)
    ]
    return {"name": name, "versions": versions}


def _about(name: str) -> str:
    return (
        "Video anonymizers: clips in, released clips out (`mlflow.pyfunc.load_model`), or `stprivacy anonymize in.mp4 out.mp4`.\n\n"
        "A version is weights at a keep ratio. `candidate` is what the policy of params.yaml chose from the last front; "
        f"`stprivacy promote` makes it challenger, then champion. `models:/{name}@champion` loads the one in use."
    )
