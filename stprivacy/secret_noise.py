"""Noise that nobody can take off: normal draws from a stream cipher under a secret key.

What protects a release must not come from torch's or numpy's generators. They are made for simulation: torch's CPU generator keeps 32
bits of its seed, so all of its streams can be tried in minutes. Their draws, keyed by sample and step (`randomness.py`), are for training
and for figures, which have to repeat; pixels that leave take theirs from here.
"""

import math
import secrets
from collections.abc import Sequence

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

KEY_BYTES = 32
NONCE = bytes(16)
"""Of ChaCha20, with its counter of blocks. Always the same one, since a key is used for one stream."""
STEP = 2.0**-53


class SecretNoise:
    """A stream of normal draws: ChaCha20 (RFC 8439) as source of bits, Box–Muller's transform of 53-bit uniform numbers.

    `key`: 32 secret bytes; None draws them from the system's entropy, and nobody ever sees them. Whoever knows the key can take the
    noise off, so give one only where the release stays with you, as in a test. Raises ValueError for a key of another length.
    """

    def __init__(self, key: bytes | None = None):
        key = secrets.token_bytes(KEY_BYTES) if key is None else key
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, this one has {len(key)}")
        self._cipher = Cipher(algorithms.ChaCha20(key, NONCE), mode=None).encryptor()

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The stream's next standard normal draws, fp32 of `shape`, on the CPU. Two calls never give the same draws."""
        count = math.prod(shape)
        pairs = -(-count // 2)
        bits = np.frombuffer(self._cipher.update(bytes(16 * pairs)), np.uint64).reshape(2, pairs) >> np.uint64(11)
        radius = np.sqrt(-2 * np.log((bits[0] + 1.0) * STEP))  # of uniform numbers in (0, 1], so that the logarithm is finite
        angle = 2 * np.pi * STEP * bits[1]
        draws = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
        return torch.from_numpy(draws.astype(np.float32)).view(tuple(shape))
