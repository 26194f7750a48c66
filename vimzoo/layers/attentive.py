"""MambaIRv2's layer: window attention, then a scan over tokens sorted by class (Guo et al. 2025, section 3)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.ops import scan_codes
from vimzoo.ops.paths.path import FORWARD, path_codes

from .buffers import DerivedBuffers
from .checks import check_double, check_map, check_sizes, inner_width
from .linear import apply_linear
from .ssm import SelectiveSSM

Noise = Callable[[Tensor], Tensor]
_FORWARD = path_codes((FORWARD,))
MASKED = -100.0


def relative_index(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """``(H W, H W)``: the index, among the ``(2H-1)(2W-1)`` offsets, of the offset of each pair of tokens."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    down = rows[:, None] - rows[None, :] + height - 1
    right = columns[:, None] - columns[None, :] + width - 1
    return down * (2 * width - 1) + right


class WindowAttention(DerivedBuffers):
    """Self-attention in windows that may be shifted, with a learned bias per offset (Swin, Liu et al. 2021).

    Args:
        dim: Width C.
        num_heads: Heads.
        window: Side of a window.
        shift: The map is first rolled by this many rows and columns; in windows that then hold tokens of opposite
            borders, tokens attend only to those of their own border.

    Raises:
        ValueError: Heads do not divide the width, or a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int = 16,
        shift: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, num_heads=num_heads, window=window)
        if not 0 <= shift < window:
            raise ValueError(f"shift: expected 0..{window - 1}, less than a window, got {shift}")
        if dim % num_heads:
            raise ValueError(f"num_heads: expected a divisor of {dim}, got {num_heads}")
        self.dim = dim
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        self.bias_table = nn.Parameter(
            torch.empty((2 * window - 1) ** 2, num_heads, device=device, dtype=dtype)
        )
        self.proj = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.index: Tensor
        index = torch.empty(window**2, window**2, dtype=torch.long, device=device)
        self.register_buffer("index", index, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal bias with standard deviation 0.02, and the index of the bias of each pair of tokens."""
        self.init_non_persistent_buffers()
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def init_non_persistent_buffers(self) -> None:
        """The index of the bias of each pair of tokens, which follows from the window."""
        self.index.copy_(relative_index(self.window, self.window, self.index.device))

    def forward(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values of a map, ``(B, H, W, 3C)`` with sides in windows -> ``(B, H, W, C)``.

        Raises:
            ValueError: ``qkv`` is not such a map.
        """
        qkv = check_map(qkv, 3 * self.dim, 3, 1)
        batch, height, width, _ = qkv.shape
        window, shift = self.window, self.shift
        if not _is_recorded() and (height % window or width % window):
            raise ValueError(
                f"x: expected a map of whole windows of {window}, got {height} x {width} positions"
            )
        if shift:
            qkv = qkv.roll((-shift, -shift), (1, 2))
        rows, columns = height // window, width // window
        qkv = qkv.reshape(batch, rows, window, columns, window, 3, self.num_heads, self.dim // self.num_heads)
        # (B, rows, columns, heads, tokens of a window, channels of a head)
        q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).unbind(0)
        y = self._attend(q, k, v)
        y = (
            y.unflatten(4, (window, window))
            .permute(0, 1, 4, 2, 5, 3, 6)
            .reshape(batch, height, width, self.dim)
        )
        y = apply_linear(self.proj, y)
        return y.roll((shift, shift), (1, 2)) if shift else y

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of all windows: one bias for all, or, with a shift, four, depending on the window's position."""
        bias = self.bias_table[self.index].permute(2, 0, 1).to(q.dtype)
        if not self.shift:
            return _attention(q, k, v, bias)
        right, bottom = self._seams(bias.device)
        rows = []
        for r, below in ((slice(None, -1), None), (slice(-1, None), bottom)):
            masks = [bias if below is None else bias + below * MASKED]
            masks.append(bias + (right if below is None else right | below) * MASKED)
            columns = zip((slice(None, -1), slice(-1, None)), masks, strict=True)
            rows.append(torch.cat([_attention(q[:, r, c], k[:, r, c], v[:, r, c], m) for c, m in columns], 2))
        return torch.cat(rows, 1)

    def _seams(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which pairs of tokens come from opposite borders of the map, in the last column and last row of windows."""
        late = torch.arange(self.window, device=device) >= self.window - self.shift
        column, row = late.repeat(self.window), late.repeat_interleave(self.window)
        return column[:, None] != column[None, :], row[:, None] != row[None, :]


def _is_recorded() -> bool:
    """Whether a graph for maps of other sizes is being made, in which a check of this one would be a condition."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    shape = q.shape
    if 0 in shape[:3] and not torch.jit.is_tracing():  # a traced graph may see a map of more windows later
        return q
    q, k, v = q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
    return y.reshape(shape)


class ConvFFN(nn.Module):
    """Feed-forward layer with a depthwise convolution inside, gated in the light model.

    Plain: ``fc2(x + GELU(conv(x)))`` with ``x = GELU(fc1(...))``. Gated: half of ``x`` is multiplied by the
    convolution of the other, normalised, half.

    Args:
        dim: Width C.
        hidden: Inner width.
        kernel: Size of the convolution, odd; 5 if gated.
        gated: See above.

    Raises:
        ValueError: a size is not positive, ``kernel`` is even, or ``hidden`` is odd though the layer is gated.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        kernel: int = 5,
        gated: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, hidden=hidden, kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel: expected an odd size, which keeps the size of the map, got {kernel}")
        if gated and hidden % 2:
            raise ValueError(f"hidden: expected an even number with a gate, got {hidden}")
        self.dim = dim
        inner = hidden // 2 if gated else hidden
        kernel = 5 if gated else kernel
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.norm = nn.LayerNorm(inner, **dd) if gated else None
        self.conv = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner, **dd)
        self.fc2 = nn.Linear(inner, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        x = F.gelu(apply_linear(self.fc1, x))
        if self.norm is None:
            x = x + F.gelu(self._mixed(x))
        else:
            values, gates = x.chunk(2, dim=-1)
            x = values * self._mixed(self.norm(gates))
        return apply_linear(self.fc2, x)

    def _mixed(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PromptedSSM(SelectiveSSM):
    """A `SelectiveSSM` of one direction, to whose matrix C a prompt is added (the attentive state-space equation)."""

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:  # type: ignore[override]
        """Tokens ``(B, L, D)`` and prompts ``(B, L, N)`` -> ``(B, L, D)``."""
        rows = self.project(x)
        rows = rows + F.pad(prompt.to(rows.dtype), (rows.shape[-1] - self.d_state, 0)).unsqueeze(2)
        rates, dt_proj, dt_bias = self.step_parameters()
        return scan_codes(
            x, rows, rates, dt_proj, dt_bias, self.D, None, codes=_FORWARD, table=None, height=1, width=x.shape[1]
        )  # fmt: skip


class ClassOrder(nn.Module):
    """The order of tokens by class, and by place within a class; a module so that hooks can see it."""

    def forward(self, route: Tensor) -> Tensor:
        """Classes ``(B, L)`` -> indices of the tokens, sorted, ``(B, L)``."""
        return route.sort(dim=-1, stable=True).indices


class AttentiveScan(nn.Module):
    """Scan over the tokens of a map sorted by class, each class with a learned prompt (section 3.2, ASSM).

    A router assigns a class to every token. Tokens are scanned class by class, in the map's order within a class.
    As in the authors' code, the prompts are not sorted with them: step l of the scan gets the prompt of the map's
    l-th token.

    Args:
        dim: Width C.
        d_state: States N of the scan.
        ratio: Inner width in multiples of C (``mlp_ratio``).
        num_tokens: Classes, which are the prompts (``num_tokens``).
        rank: Width of a prompt before the layer turns it into N numbers (``inner_rank``).

    Raises:
        ValueError: a size is not positive, or ``dim`` is less than 3.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 8,
        ratio: float = 2.0,
        num_tokens: int = 64,
        rank: int = 32,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, num_tokens=num_tokens, rank=rank)
        if dim < 3:
            raise ValueError(f"dim: expected at least 3 channels, got {dim}")
        hidden = inner_width("ratio", ratio, dim)
        self.dim = dim
        self.num_tokens = num_tokens
        self.route = nn.Sequential(
            nn.Linear(dim, dim // 3, **dd), nn.GELU(), nn.Linear(dim // 3, num_tokens, **dd)
        )
        self.order = ClassOrder()
        self.prompts = nn.Parameter(torch.empty(num_tokens, rank, **dd))
        self.in_proj = nn.Conv2d(dim, hidden, 1, **dd)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.ssm = PromptedSSM(hidden, d_state, -(-hidden // 16), **dd)
        self.out_norm = nn.LayerNorm(hidden, **dd)
        self.out_proj = nn.Linear(hidden, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Prompts uniform within one over their number."""
        nn.init.uniform_(self.prompts, -1 / self.num_tokens, 1 / self.num_tokens)

    def forward(self, x: Tensor, states: Tensor, noise: Noise | None = None) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Args:
            x: The map.
            states: ``(rank, N)``, the layer's projection of prompts.
            noise: Added to the routing logits ``(B, H W, classes)``; ``None`` for none.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        route, prompt = self.routed(x.flatten(1, 2), self.prompts @ states, noise)
        inner = self.in_proj(x.permute(0, 3, 1, 2))
        tokens = (inner * self.conv(inner).sigmoid()).permute(0, 2, 3, 1).flatten(1, 2)
        order = self.order(route)
        steps = torch.arange(order.shape[1], device=x.device).expand_as(order)
        back = order.scatter(1, order, steps)  # the inverse
        y = self.ssm(_take(tokens, order), prompt)
        y = apply_linear(self.out_proj, self.out_norm(y).to(tokens.dtype))
        return _take(y, back).unflatten(1, x.shape[1:3])

    def routed(self, tokens: Tensor, table: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Tokens ``(B, L, C)`` -> their classes ``(B, L)`` and rows of ``table``, with a straight-through gradient."""
        scores = self.route(tokens).log_softmax(-1)
        if noise is not None:
            scores = scores + noise(scores).to(scores)
        route = scores.detach().argmax(-1)
        if not torch.is_grad_enabled() and not torch.jit.is_tracing():  # a traced graph may be trained
            return route, table[route]
        soft = scores.softmax(-1)
        classes = torch.arange(self.num_tokens, device=route.device)
        hard = (route.unsqueeze(-1) == classes).to(soft.dtype)  # one_hot has no rule under vmap
        return route, (hard - soft.detach() + soft) @ table


def _take(tokens: Tensor, order: Tensor) -> Tensor:
    return tokens.gather(1, order.unsqueeze(-1).expand_as(tokens))


class AttentiveLayer(nn.Module):
    """MambaIRv2's layer: window attention and the attentive scan, each followed by a feed-forward layer.

    Each half has two skip connections: one plain, and one scaled by learned factors.

    Args:
        dim: Width C.
        num_heads, window, shift: As in `WindowAttention`.
        d_state, ratio, num_tokens, rank: As in `AttentiveScan`.
        kernel: Size of the feed-forward layers' convolution (``convffn_kernel_size``).
        gated: Gated feed-forward layers (the light model).
        qkv_bias: Bias of queries, keys and values.
        scale: Initial value of the scaled skips.

    Raises:
        ValueError: as its parts.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int = 16,
        shift: int = 0,
        d_state: int = 8,
        ratio: float = 2.0,
        num_tokens: int = 64,
        rank: int = 32,
        kernel: int = 5,
        gated: bool = False,
        qkv_bias: bool = True,
        scale: float = 1e-4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, d_state=d_state, rank=rank)
        hidden = inner_width("ratio", ratio, dim)
        self.dim = dim
        self.initial_scale = scale
        self.scale1 = nn.Parameter(torch.empty(dim, **dd))
        self.scale2 = nn.Parameter(torch.empty(dim, **dd))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim, **dd) for _ in range(4))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.attn = WindowAttention(dim, num_heads, window, shift, **dd)
        self.scan = AttentiveScan(dim, d_state, ratio, num_tokens, rank, **dd)
        self.ffn1, self.ffn2 = (ConvFFN(dim, hidden, kernel, gated, **dd) for _ in range(2))
        self.states = nn.Parameter(torch.empty(rank, d_state, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial skips, and states uniform within one over their number; the parts initialise themselves."""
        nn.init.constant_(self.scale1, self.initial_scale)
        nn.init.constant_(self.scale2, self.initial_scale)
        nn.init.uniform_(self.states, -1 / self.states.shape[0], 1 / self.states.shape[0])

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Map ``(B, H, W, C)`` with sides in windows -> the same; ``noise`` as in `AttentiveScan`.

        Raises:
            ValueError: ``x`` is not such a map.
        """
        x = check_map(x, self.dim, 3, 1)
        check_double(x, self.norm1.weight)
        y = self.attn(apply_linear(self.qkv, self.norm1(x))) + x
        x = x * self.scale1 + self.ffn1(self.norm2(y)) + y
        y = self.scan(self.norm3(x), self.states, noise) + x
        return x * self.scale2 + self.ffn2(self.norm4(y)) + y
