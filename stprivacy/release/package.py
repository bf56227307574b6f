"""An anonymizer as an MLflow model: safetensors, config.json and a few lines of code; clips in, clips out. Nothing is pickled."""

import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stprivacy import __version__
from stprivacy.config import Clip, Environment
from stprivacy.models.checkpoints import CONFIG, WEIGHTS
from stprivacy.release.model import config_at

CODE = Path(__file__).with_name("served.py")
FILES = "artifacts"
"""Where MLflow keeps the two files within a model's folder."""


def log_package(run_id: str, folder: Path, keep_ratio: float, content: str) -> tuple[str, str]:
    """Log the anonymizer of `folder` at `keep_ratio` as a model of the run `run_id`; gives its MLflow URI and id.

    `content`: its `content_hash`. Requirements are this version of stprivacy alone: it brings what it needs, and its code is
    that of the installed package.
    """
    import mlflow

    mlflow.set_tracking_uri(Environment.read().tracking_uri)
    with tempfile.TemporaryDirectory() as place:
        config = config_at(folder, keep_ratio)
        weights, settings = Path(place, WEIGHTS), Path(place, CONFIG)
        shutil.copyfile(folder / WEIGHTS, weights)
        settings.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        clip = Clip(**config["clip"])
        with mlflow.start_run(run_id=run_id), _no_bytecode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")  # the signature says it all
            info = mlflow.pyfunc.log_model(
                name=f"anonymizer-{content}",
                python_model=str(CODE),
                artifacts={"weights": str(weights), "config": str(settings)},
                signature=signature(clip, keep_ratio),
                input_example=example(clip),
                pip_requirements=[f"stprivacy=={__version__}"],
            )
    return info.model_uri, info.model_id


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow tries the example while it packs; what Python compiles then would be packed, too: code that nobody reads."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def signature(clip: Clip, keep_ratio: float) -> Any:
    """uint8 (B, T, S, S, 3) in and out; inference param `keep_ratio`. The noise is secret and drawn anew each time."""
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    clips = Schema([TensorSpec(np.dtype("uint8"), (-1, clip.num_frames, clip.size, clip.size, 3))])
    params = ParamSchema([ParamSpec("keep_ratio", DataType.double, keep_ratio)])
    return ModelSignature(clips, clips, params)


def example(clip: Clip) -> np.ndarray:
    """A grey clip as input example: nobody's footage goes to a server."""
    return np.full((1, clip.num_frames, clip.size, clip.size, 3), 128, np.uint8)
