"""Every number that changes a result: `params.yaml` as frozen, validated classes, one a section.

A function takes the section that it needs, never the whole `Params`. What depends on the machine and not on the
experiment (addresses, worker counts) comes from the environment, through `Environment`.
"""

from stprivacy.config.base import Section
from stprivacy.config.data import (
    VP_ATTRIBUTES,
    CelebVDataset,
    Clip,
    Dataset,
    FolderDataset,
    PADataset,
    PHVUDataset,
    Preprocess,
    Shard,
    SyntheticDataset,
    VPDataset,
    WeizmannDataset,
)
from stprivacy.config.evaluation import Attack, AttackerKind, Evaluate, Pareto, Policy, Register, Tracking
from stprivacy.config.networks import Channel, Model, NetworkKind, Recognizers
from stprivacy.config.params import Params
from stprivacy.config.reading import PARAMS_FILE, Environment, config_hash, load_params
from stprivacy.config.training import Adversary, BaselineKind, Baselines, ClosedForm, CodeTraining, Game, InitPhase, Range, Sweep, Train

__all__ = [
    "PARAMS_FILE",
    "VP_ATTRIBUTES",
    "Adversary",
    "Attack",
    "AttackerKind",
    "BaselineKind",
    "Baselines",
    "CelebVDataset",
    "Channel",
    "Clip",
    "ClosedForm",
    "CodeTraining",
    "Dataset",
    "Environment",
    "Evaluate",
    "FolderDataset",
    "Game",
    "InitPhase",
    "Model",
    "NetworkKind",
    "PADataset",
    "PHVUDataset",
    "Params",
    "Pareto",
    "Policy",
    "Preprocess",
    "Range",
    "Recognizers",
    "Register",
    "Section",
    "Shard",
    "Sweep",
    "SyntheticDataset",
    "Tracking",
    "Train",
    "VPDataset",
    "WeizmannDataset",
    "config_hash",
    "load_params",
]
