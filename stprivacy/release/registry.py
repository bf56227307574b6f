"""The versions of the registered anonymizer in MLflow: found by alias, number or content; loaded; listed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stprivacy import tracking
from stprivacy.config import Environment
from stprivacy.errors import UserError
from stprivacy.release.package import FILES

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CANDIDATE, CHALLENGER, CHAMPION = ALIASES = ("candidate", "challenger", "champion")
"""candidate: the choice of the policy, set by `register`; the others are set by `stprivacy promote`."""


@dataclass(frozen=True)
class Version:
    """A version as the registry has it."""

    name: str
    number: int
    tags: dict[str, str]
    aliases: tuple[str, ...]
    created: datetime
    run_id: str | None

    @property
    def origin(self) -> str:
        """For people: models:/name/3 (champion)."""
        return f"models:/{self.name}/{self.number}" + (f" ({', '.join(self.aliases)})" if self.aliases else "")


@contextmanager
def connected() -> Iterator["MlflowClient"]:
    """A client of the registry. Raises UserError when there is none, or the server cannot be reached or refuses."""
    if store_is_absent():
        uri = Environment.read().tracking_uri
        raise UserError(f"no registry here: {uri} does not exist; run in the project's folder or set MLFLOW_TRACKING_URI")
    import mlflow
    from mlflow.exceptions import MlflowException

    client = tracking.connect()
    mlflow.set_tracking_uri(Environment.read().tracking_uri)  # where `models:/` is looked up
    try:
        with tracking.hasty():
            yield client
    except (MlflowException, OSError) as error:
        raise UserError(tracking.complaint(error)) from None


def store_is_absent() -> bool:
    """Whether the store is a local file that nobody has made yet. Asking MLflow would make it, in whatever folder this is."""
    uri = Environment.read().tracking_uri
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def list_versions(client: "MlflowClient", name: str) -> list[Version]:
    """All versions of a registered model, oldest first; none where there is no such model."""
    found: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token or None)
        found.extend(page)
        token = page.token or None
    # The version entities of a search don't carry aliases (sqlite store of MLflow 3.17); the model's own list does.
    aliases: dict[str, str] = client.get_registered_model(name).aliases if found else {}
    versions = [
        Version(
            name,
            int(entry.version),
            dict(entry.tags),
            tuple(alias for alias, number in sorted(aliases.items()) if int(number) == int(entry.version)),
            datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
            entry.run_id or None,
        )
        for entry in found
    ]
    return sorted(versions, key=lambda version: version.number)


def with_alias(versions: list[Version], alias: str) -> Version | None:
    return next((version for version in versions if alias in version.aliases), None)


def released_version(name: str) -> Version | None:
    """Champion, else candidate (DESIGN §7); None where the model has neither."""
    if store_is_absent():
        return None
    with connected() as client:
        versions = list_versions(client, name)
    return with_alias(versions, CHAMPION) or with_alias(versions, CANDIDATE)


def named_version(name: str, alias: str | None, number: str | None) -> Version:
    """The version with an alias or a number; with neither, champion, else candidate. Raises UserError when there is none."""
    if alias is None and number is None:
        found, asked = released_version(name), "champion or candidate"
    else:
        with connected() as client:
            versions = list_versions(client, name)
        if alias is not None:
            found, asked = with_alias(versions, alias), f"version with the alias {alias}"
        else:
            found, asked = next((version for version in versions if version.number == int(number or 0)), None), f"version {number}"
    if found is None:
        raise UserError(f"models:/{name}: the registry has no {asked}; `stprivacy registry` lists what there is")
    return found


@contextmanager
def downloaded(version: Version) -> Iterator[Path]:
    """The folder with a version's weights and config.json, for as long as the block lasts."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    with tempfile.TemporaryDirectory() as place:
        with connected():
            folder = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{version.name}/{version.number}", dst_path=place)
        yield Path(folder) / FILES
