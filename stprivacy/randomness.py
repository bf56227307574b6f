"""Randomness that belongs to a sample and a step, not to a process: the same draw on one worker or on eight.

None of it is secret: the keys stand in the code, and torch's CPU generator keeps 32 bits of a seed. What leaves takes `secret_noise.py`.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed from a key such as ("channel", seed, step, sample): equal keys, equal seeds, on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `keyed_seed(*key)`."""
    return torch.Generator(device=device).manual_seed(keyed_seed(*key))


def keyed_normal(shape: Sequence[int], key: Sequence[int | str], samples: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard normal draws (len(samples), *shape), row i keyed by (*key, samples[i])."""
    rows = [torch.randn(tuple(shape), generator=keyed_generator(*key, int(sample), device=device), device=device) for sample in samples]
    return torch.stack(rows)


def keyed_gumbel(shape: Sequence[int], key: Sequence[int | str], samples: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Standard Gumbel draws (len(samples), *shape), row i keyed by (*key, samples[i])."""
    rows = [
        torch.empty(tuple(shape), device=device).exponential_(generator=keyed_generator(*key, int(sample), device=device))
        for sample in samples
    ]
    return -torch.stack(rows).log()
