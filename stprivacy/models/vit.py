"""The transformer both the anonymizer and the ViT recognizers are made of. Parameter names are the authors'.

B batch, N tokens, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


class TubeletEmbedding(nn.Module):
    """Clip (B, C, T, H, W) → tokens (B, L·N, D), slice by slice, rows before columns (paper §3.1)."""

    def __init__(self, width: int, tubelet: tuple[int, int, int], in_channels: int = 3):
        super().__init__()
        self.proj = nn.Conv3d(in_channels, width, kernel_size=tubelet, stride=tubelet)

    def forward(self, clips: Tensor) -> Tensor:
        return self.proj(clips).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention in which a token may be hidden as a key."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """`tokens` (B, N, D); `keep` (B, N) of 0/1: a token with 0 is a key for nobody (eq. 8-10).

        What such a token computes for itself is used by nobody; for kept tokens this is the paper's masked attention, exactly.
        softmax(qkᵀ) over kept keys = softmax(qkᵀ)[m·v] / softmax(qkᵀ)[m]: two more value columns in place of an N × N mask,
        the fused kernel stays usable and the hard decision keeps its gradient.
        """
        batch, num_tokens, width = tokens.shape
        query, key, value = self.qkv(tokens).view(batch, num_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, N, D/H)
        if keep is None:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            scale = query.shape[-1] ** -0.5
            mask = keep.to(value.dtype)[:, None, :, None].expand(-1, self.num_heads, -1, -1)  # (B, H, N, 1)
            # Query and key are padded as the value is, since the fused kernels want one head size; zeros change no product.
            columns = F.scaled_dot_product_attention(
                F.pad(query, (0, PADDING)), F.pad(key, (0, PADDING)), torch.cat([value * mask, mask.expand(-1, -1, -1, PADDING)], -1), scale=scale
            )
            mixed = columns[..., :-PADDING] / (columns[..., -1:] + EPSILON)
        return self.proj(mixed.transpose(1, 2).reshape(batch, num_tokens, width))


PADDING = 8
"""Value columns that carry the mask: one would do, eight keep rows aligned for vector loads."""


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm transformer block: tokens (B, N, D) → (B, N, D)."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), keep)
        return tokens + self.mlp(self.norm2(tokens))


def init_transformer(module: nn.Module) -> None:
    """ViT's initialisation: truncated normal (σ 0.02) for linear weights and position tables, zero biases."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02)
            nn.init.zeros_(child.bias)
    for name, parameter in module.named_parameters():
        if name.endswith("pos_embed"):
            nn.init.trunc_normal_(parameter, std=0.02)
