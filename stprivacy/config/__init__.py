"""Every number that changes a result: `params.yaml` as frozen, validated classes, one a section.

A function takes the section that it needs, never the whole `Params`. What depends on the machine and not on the
experiment (addresses, worker counts) comes from the environment, through `Environment`.
"""

from stprivacy.config.base import Section
from stprivacy.config.data import (
    VP_ATTRIBUTES,
    Clip,
    Dataset,
    FolderDataset,
    PADataset,
    Preprocess,
    Shard,
    SyntheticDataset,
    VPDataset,
    WeizmannDataset,
)
from stprivacy.config.evaluation import Attack, Evaluate, Pareto, Policy, Register, Tracking
from stprivacy.config.networks import Channel, Model, NetworkKind, Recognizers
from stprivacy.config.params import Params
from stprivacy.config.reading import PARAMS_FILE, Environment, config_hash, load_params
from stprivacy.config.training import Adversary, ClosedForm, Game, InitPhase, Range, Sweep, Train

__all__ = [
    "PARAMS_FILE",
    "VP_ATTRIBUTES",
    "Adversary",
    "Attack",
    "Channel",
    "Clip",
    "ClosedForm",
    "Dataset",
    "Environment",
    "Evaluate",
    "FolderDataset",
    "Game",
    "InitPhase",
    "Model",
    "NetworkKind",
    "PADataset",
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
