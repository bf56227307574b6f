"""The transformer both the anonymizer and the ViT recognizers are made of. Parameter names are the authors'.

B batch, N tokens, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


class TubeletEmbedding(nn.Module):
    """Clip (B, 3, T, H, W) → tokens (B, L·N, D), slice by slice, rows before columns (paper §3.1)."""

    def __init__(self, width: int, tubelet: tuple[int, int, int]):
        super().__init__()
        self.tubelet = tubelet
        self.proj = nn.Conv3d(3, width, kernel_size=tubelet, stride=tubelet)

    def forward(self, clips: Tensor) -> Tensor:
        # A convolution that never overlaps is a matrix product, whose backward pass takes a fifth of the time (ViT-S, one core).
        return F.linear(fold(clips, self.tubelet), self.proj.weight.flatten(1), self.proj.bias)


def fold(clips: Tensor, tubelet: tuple[int, int, int]) -> Tensor:
    """(B, 3, T, H, W) → tubelets (B, L·N, 3·δT·δH·δW), slice by slice, values channel first as in a convolution's weight."""
    batch, channels, num_frames, height, width = clips.shape
    frames, rows, columns = tubelet
    values = clips.reshape(batch, channels, num_frames // frames, frames, height // rows, rows, width // columns, columns)
    return values.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, -1, channels * frames * rows * columns)


class Attention(nn.Module):
    """Multi-head self-attention in which a token may be hidden from the others."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, H, N, D/H)."""
        batch, num_tokens, _ = tokens.shape
        query, key, value = self.qkv(tokens).view(batch, num_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return query, key, value

    def merge(self, mixed: Tensor) -> Tensor:
        """What the heads saw, (B, H, N, D/H) → (B, N, D)."""
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """`tokens` (B, N, D); `keep` (B, N) of 0/1, None for all: a token with 0 is a key for nobody but itself (eq. 8-10)."""
        query, key, value = self.heads(tokens)
        if keep is None:
            return self.merge(F.scaled_dot_product_attention(query, key, value))
        return self.merge(masked_attention(query, key, value, keep))


def masked_attention(query: Tensor, key: Tensor, value: Tensor, keep: Tensor, first: int = 0) -> Tensor:
    """Attention to kept tokens and to oneself, differentiable in `keep`, by the fused kernel and without an N × N mask.

    `key`, `value` (B, H, N, D/H), `keep` (B, N) of 0/1, `query` (B, H, Q, D/H) of the tokens `first` … `first` + Q - 1 →
    (B, H, Q, D/H). With p = softmax(qkᵀ/√d) over all tokens and m = keep, the paper's masked softmax gives

        out_i = (Σ_j p_ij m_j v_j + (1 - m_i) p_ii v_i) / (Σ_j p_ij m_j + (1 - m_i) p_ii)

    Both sums are columns of one attention over values [m v, m]. p_ii is a column, too: one more key, whose score is made q_i k_i
    by a column of the query, and whose value is 1 where all others have 0. What p sums to cancels.
    """
    batch, num_heads, num_queries, size = query.shape
    kept = keep.to(value.dtype)[:, None, :, None].expand(-1, num_heads, -1, -1)  # (B, H, N, 1)
    own = slice(first, first + num_queries)
    one = value.new_ones(batch, num_heads, 1, 1)
    to_itself = (query * key[:, :, own]).sum(-1, keepdim=True)
    queries = torch.cat([query, to_itself, torch.zeros_like(to_itself)], -1)  # (B, H, Q, D/H + 2)
    keys = torch.cat([F.pad(key, (0, 2)), F.pad(one, (size, 1))], 2)  # (B, H, N + 1, D/H + 2)
    values = torch.cat([torch.cat([value * kept, kept, torch.zeros_like(kept)], -1), F.pad(one, (size + 1, 0))], 2)
    mixed, mass, itself = F.scaled_dot_product_attention(queries, keys, values, scale=size**-0.5).split([size, 1, 1], -1)
    itself = itself * (1 - kept[:, :, own])
    # A floor for the case that all that a token may attend to has a softmax of 0 in floating point.
    return (mixed + itself * value[:, :, own]) / (mass + itself).clamp_min(torch.finfo(torch.float32).tiny)


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

    def forward(self, tokens: Tensor, keep: Tensor | None = None, num_live: int | None = None) -> Tensor:
        """`keep` (B, N) of 0/1 as `Attention` takes it. Tokens from `num_live` on are all dropped, and computed without gradients.

        No released pixel depends on a dropped token, so its gradient is zero; its values are needed all the same, since the
        straight-through gradient of a decision asks what keeping the token would have shown.
        """
        if keep is None or num_live is None or num_live == tokens.shape[1]:
            tokens = tokens + self.attn(self.norm1(tokens), keep)
            return tokens + self.mlp(self.norm2(tokens))
        live, rest = tokens[:, :num_live], tokens[:, num_live:].detach()
        query, *live_heads = self.attn.heads(self.norm1(live))
        with torch.no_grad():
            rest_query, *rest_heads = self.attn.heads(self.norm1(rest))
        key, value = (torch.cat(both, 2) for both in zip(live_heads, rest_heads, strict=True))
        live = live + self.attn.merge(masked_attention(query, key, value, keep))
        live = live + self.mlp(self.norm2(live))
        with torch.no_grad():
            rest = rest + self.attn.merge(masked_attention(rest_query, key, value, keep, first=num_live))
            rest = rest + self.mlp(self.norm2(rest))
        return torch.cat([live, rest], 1)


def init_transformer(module: nn.Module) -> None:
    """Xavier's uniform linear weights, zero biases, position tables of σ 0.02: as in the first ViT (arXiv 2010.11929, its code).

    timm's σ of 0.02 for all weights is made for widths of hundreds: at 64 a layer would pass a sixth of its input on, and the
    anonymizer fell behind its adversaries (docs/LOG.md).
    """
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            nn.init.zeros_(child.bias)
    for name, parameter in module.named_parameters():
        if name.endswith("pos_embed"):
            nn.init.trunc_normal_(parameter, std=0.02)
