"""The registered model's code: MLflow keeps this file with a version and runs it to load one ("models from code").

It holds no logic of its own, so that a version is weights and numbers, and what it does is in the installed stprivacy.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from stprivacy.models.checkpoints import load_anonymizer
from stprivacy.release.clips import release


class ReleasingModel(PythonModel):
    """Clips in, released clips out."""

    def load_context(self, context: Any) -> None:
        self.anonymizer, self.channel = load_anonymizer(Path(context.artifacts["config"]).parent)

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """`model_input` uint8 (B, T, S, S, 3) → likewise. `params`: keep_ratio, None for the model's own."""
        return release(self.anonymizer, self.channel, model_input, (params or {}).get("keep_ratio"))


set_model(ReleasingModel())
