"""What a process is told that belongs to a job on a Ray cluster."""

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

OF_THE_IMAGE = Path(__file__).parents[2] / "COMMIT"
"""Written when an image is built, beside the code that it names: a job that brings its own code has none beside it."""


class JobEnvironment(BaseModel):
    """What goes along with a job as environment, since neither .git nor data do."""

    model_config = ConfigDict(frozen=True)

    submission_id: str
    """What `ray job logs` and `ray job stop` call the job."""
    commit: str | None = None
    stage_hash: str | None = None
    data: dict[str, str] | None = None
    """Path → MD5 of what the stage reads of other stages; None in a job that was submitted by hand, until its driver has read dvc.lock."""

    @classmethod
    def read(cls) -> "JobEnvironment | None":
        """Read os.environ; None in a process that belongs to no job."""
        # Ray tells the driver of a job which one it is; to its workers we tell it ourselves.
        told = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata", {})
        submission_id = os.environ.get("STPRIVACY_JOB") or told.get("job_submission_id")
        if not submission_id:
            return None
        data = os.environ.get("STPRIVACY_DATA_MD5")
        return cls(
            submission_id=submission_id,
            commit=os.environ.get("STPRIVACY_COMMIT") or (OF_THE_IMAGE.read_text().strip() if OF_THE_IMAGE.exists() else None),
            stage_hash=os.environ.get("STPRIVACY_STAGE_HASH"),
            data=json.loads(data) if data else None,
        )

    def variables(self) -> dict[str, str]:
        """The environment from which `read` makes this again."""
        variables = {
            "STPRIVACY_JOB": self.submission_id,
            "STPRIVACY_COMMIT": self.commit,
            "STPRIVACY_STAGE_HASH": self.stage_hash,
            "STPRIVACY_DATA_MD5": None if self.data is None else json.dumps(self.data, sort_keys=True),
        }
        return {name: value for name, value in variables.items() if value is not None}
