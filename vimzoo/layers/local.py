"""LocalMamba's layers: rows, columns and windows, each direction weighted by its own tokens (Huang et al. 2024)."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from vimzoo.ops import ScanPath, causal_conv1d
from vimzoo.ops.paths.path import (
    ROW,
    pad_paths,
    path_arguments,
    path_names,
    path_steps,
    tokens_from_codes,
)

from .bimamba import BiMambaBlock
from .channel_gate import ChannelGate
from .checks import check_sizes, check_tokens, inner_width
from .linear import apply_linear
from .scripted import scripted_table
from .ss2d import SS2D
from .ssm import SelectiveSSM
from .vss_block import VSSBlock

SEARCHED = ("h", "h_flip", "v", "v_flip", "w2", "w2_flip", "w7", "w7_flip")
"""The directions that a search chooses from, in the order of its weights."""


def local_path(name: str) -> ScanPath:
    """The scan path of a direction by the authors' name.

    ``"h"`` reads rows, ``"v"`` columns, ``"w7"`` windows of 7 x 7, and with ``"_flip"`` appended backward.

    Raises:
        ValueError: there is no such direction.
    """
    match = re.fullmatch(r"(?:(h)|(v)|w([1-9]\d*))(_flip)?", name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(
            f"directions: expected 'h', 'v' or 'w' and the side of a window, each with or without '_flip', got {name!r}"
        )
    rows, columns, window, flip = match.groups()
    path = ScanPath("row" if rows else "column") if rows or columns else ScanPath.window(int(window))
    return path.reversed() if flip else path


def local_paths(directions: Sequence[str]) -> tuple[ScanPath, ...]:
    """The scan paths of a layer's directions, padded to the same number of steps.

    Raises:
        ValueError: ``directions`` is not one name or more of `local_path`.
    """
    if isinstance(directions, str) or not isinstance(directions, Sequence) or not directions:
        raise ValueError(f"directions: expected names such as {SEARCHED[:4]}, got {directions!r}")
    return pad_paths([local_path(name) for name in directions])


def block_directions(directions: Any, count: int) -> list[Any]:
    """A model's argument ``directions`` as one entry per block; ``None`` stands for a search.

    Args:
        directions: ``"search"``, one set of names for all blocks, or one set per block.
        count: Blocks.

    Raises:
        ValueError: there is not one set per block.
    """
    if directions is None or directions == "search":
        return [None] * count
    if isinstance(directions, str):  # a name alone, whose letters are no names
        local_paths(directions)
    sets = list(directions)
    if all(isinstance(name, str) for name in sets):
        sets = [sets] * count
    if len(sets) != count:
        raise ValueError(f"directions: expected one set for each of {count} blocks, got {len(sets)}")
    return [None if names is None else tuple(names) for names in sets]


class DirectionMerge(ChannelGate):
    """The sum of all directions, each channel of each direction times a gate (state-space channel attention).

    The gate of a direction sees its own tokens. A search normalises the gated directions and weights them by the
    softmax of ``weights``; the directions with the largest weights are then kept.

    Args:
        dim: Channels D, at least 8.
        directions: Number of directions K.
        search: Whether to weight the directions.

    Raises:
        ValueError: a size is not positive, or ``dim`` is less than 8.
    """

    def __init__(
        self,
        dim: int,
        directions: int,
        search: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, device, dtype)
        check_sizes(directions=directions)
        weights = torch.empty(directions, 1, 1, device=device, dtype=dtype) if search else None
        self.weights = None if weights is None else nn.Parameter(weights)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Nearly equal weights of a search; the parts initialise themselves."""
        if self.weights is not None:
            nn.init.normal_(self.weights, std=1e-3)

    def forward(self, y: Tensor) -> Tensor:
        """Directions ``(B, K, L, D)`` in token order -> ``(B, L, D)``."""
        y = self.gated(y)
        if self.weights is not None:
            y = F.layer_norm(y, y.shape[-1:]) * self.weights.softmax(0)
        return y.sum(1)


def searched_directions(model: nn.Module, count: int = 4) -> list[tuple[str, ...]]:
    """The result of a search: for each layer the ``count`` directions with the largest weights.

        model = timm.create_model("local_vim_tiny", directions=searched_directions(trained_search_network))

    Args:
        model: A network with ``directions="search"``, trained.
        count: Directions to keep per layer.

    Raises:
        ValueError: the model has no layer that searches, or ``count`` is not in 1..8.
    """
    if not isinstance(count, int) or not 1 <= count <= len(SEARCHED):
        raise ValueError(f"count: expected 1..{len(SEARCHED)} directions, got {count!r}")
    merges = [
        part for part in model.modules() if isinstance(part, DirectionMerge) and part.weights is not None
    ]
    if not merges:
        raise ValueError("model: expected one with directions='search'; none of its layers searches")
    best = [merge.weights.flatten().topk(count).indices.tolist() for merge in merges]  # type: ignore[union-attr]
    return [tuple(name for i, name in enumerate(SEARCHED) if i in kept) for kept in best]


def in_token_order(y: Tensor, steps: Tensor) -> Tensor:
    """``(B, K, T, D)`` in the order of each path, and the step of each token ``(K, L)`` -> ``(B, K, L, D)``."""
    first = torch.arange(y.shape[1], device=y.device).unsqueeze(1) * y.shape[2]
    return y.flatten(1, 2).index_select(1, (steps + first).flatten()).unflatten(1, steps.shape)


@register_notrace_module  # the orders of tokens follow from sizes, which FX cannot follow
class LocalSS2D(SS2D):
    """VMamba's mixer along LocalMamba's directions, which `DirectionMerge` adds up.

    Args:
        dim: Channels C of the map.
        *args: As `SS2D` takes them.
        paths: Names of directions as `local_path` takes them; ``None`` for a search among `SEARCHED`.
        **options: As `SS2D` takes them.

    Raises:
        ValueError: an option has an unknown value, or a size is not positive.
    """

    def __init__(self, dim: int, *args: Any, paths: Sequence[str] | None = None, **options: Any) -> None:
        names = SEARCHED if paths is None else paths
        super().__init__(dim, *args, **{**options, "paths": local_paths(names)})
        dd: dict[str, Any] = {key: options.get(key) for key in ("device", "dtype")}
        self.merge = DirectionMerge(self.ssm.dim, len(names), search=paths is None, **dd)
        self.directions = tuple(names)

    def scan(self, x: Tensor) -> Tensor:
        """The scan alone, on a map ``(B, H, W, D)`` of the inner width."""
        height, width = x.shape[1], x.shape[2]
        table: Tensor | None = None
        if torch.jit.is_scripting():
            if self.has_table:
                table = scripted_table("tokens", self.path_names, height, width, x.device)
            steps = scripted_table("steps", self.path_names, height, width, x.device)
        else:
            _, table = path_arguments(self.paths, height, width, x.device)
            steps = path_steps(self.paths, height, width, x.device)
        y = self.ssm(x.flatten(1, 2), None, self.codes, table, height, width, merge=False)
        return self.merge(in_token_order(y, steps)).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.dim}, directions={self.directions}, gate={self.gate}"


class LocalVSSBlock(VSSBlock):
    """`VSSBlock` with a `LocalSS2D`."""

    scan_class = LocalSS2D


class PathConv(nn.Module):
    """Depthwise causal convolution of K sequences, then SiLU; ``weight (K, D, W)`` and ``bias (K, D)``.

    Args:
        dim: Channels D.
        width: Taps W.
        directions: Sequences K.
        bias: Whether there is a bias.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        directions: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width, directions=directions)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(directions, dim, width, **dd))
        self.bias = nn.Parameter(torch.empty(directions, dim, **dd)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's default for a depthwise convolution."""
        bound = self.weight.shape[-1] ** -0.5
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, K, D) -> (B, T, K, D)``."""
        weight = self.weight.reshape(1, -1, self.weight.shape[-1])  # one sequence of K D channels
        bias = None if self.bias is None else self.bias.reshape(1, -1)
        return causal_conv1d(x.flatten(2), weight, bias, "silu", reverse=[False]).reshape(x.shape)


@register_notrace_module  # the orders of tokens follow from sizes, which FX cannot follow
class LocalMamba(nn.Module):
    """Mamba mixer that reads the patches of a sequence along several paths over their map.

    ``[x | z] = in_proj(h)``; for each path a causal convolution, SiLU and a selective scan along it, pads included;
    the results in token order, times ``silu(z)``, are added by `DirectionMerge`; then ``out_proj``.

    Args:
        dim: Width of a token.
        directions: Names as `local_path` takes them; ``None`` for a search among `SEARCHED`.
        middle: The sequence has a class token at ``L // 2`` of L patches. Every path visits it at step ``L // 2``.
        d_state, d_conv, expand, dt_rank, conv_bias, proj_bias: As in `BiMamba`.
        **steps: As `SelectiveSSM` takes them: ``dt_min``, ``dt_max``, ``dt_floor``, ``dt_scale``, ``dt_init``.

    Raises:
        ValueError: a direction is unknown, or a size is not positive.
    """

    def __init__(
        self,
        dim: int,
        directions: Sequence[str] | None = None,
        middle: bool = False,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | None = None,
        conv_bias: bool = True,
        proj_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **steps: Any,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, d_conv=d_conv)
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        inner = inner_width("expand", expand, dim)
        self.dim = dim
        self.middle = middle
        self.directions = tuple(SEARCHED if directions is None else directions)
        self.paths = local_paths(SEARCHED if directions is None else directions)
        self.path_names = path_names(self.paths)
        count = len(self.paths)
        self.codes = [ROW] * count  # of tokens that are gathered before
        self.in_proj = nn.Linear(dim, 2 * inner, bias=proj_bias, **dd)
        self.conv = PathConv(inner, d_conv, count, conv_bias, **dd)
        rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        self.ssm = SelectiveSSM(inner, d_state, rank, count, separate_inputs=True, **steps, **dd)
        self.merge = DirectionMerge(inner, count, search=directions is None, **dd)
        self.out_proj = nn.Linear(inner, dim, bias=proj_bias, **dd)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens ``(B, H W, D)``, or with a class token ``(B, H W + 1, D)``, of a map of ``grid = (H, W)`` -> the same.

        Raises:
            ValueError: ``x`` is not such a sequence.
        """
        x = check_tokens(x, self.dim)
        length = grid[0] * grid[1] + int(self.middle)
        if not torch.compiler.is_compiling() and x.shape[1] != length:
            raise ValueError(
                f"x: expected {length} tokens for a grid of {grid[0]} x {grid[1]}, got {x.shape[1]}"
            )
        both = self.in_proj(x) if torch.jit.is_scripting() else apply_linear(self.in_proj, x)
        inner, z = both.chunk(2, dim=-1)
        tokens, steps = self._orders(grid, x.device)
        order = torch.where(tokens < 0, length, tokens).T.flatten()
        u = F.pad(inner, (0, 0, 0, 1)).index_select(1, order)  # pads read the row of zeros
        u = self.conv(u.unflatten(1, tokens.T.shape))
        y = self.ssm(u, None, self.codes, None, 1, tokens.shape[1], merge=False)
        y = self.merge(in_token_order(y, steps) * F.silu(z).unsqueeze(1))
        return self.out_proj(y) if torch.jit.is_scripting() else apply_linear(self.out_proj, y)

    def _orders(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """The token at each step ``(K, T)``, and the step of each token ``(K, L)``."""
        if torch.jit.is_scripting():
            tokens = scripted_table("tokens", self.path_names, grid[0], grid[1], device)
            steps = scripted_table("steps", self.path_names, grid[0], grid[1], device)
        else:
            codes, table = path_arguments(self.paths, grid[0], grid[1], device)
            tokens = tokens_from_codes(codes, table, grid[0], grid[1]).to(device)
            steps = path_steps(self.paths, grid[0], grid[1], device)
        if not self.middle:
            return tokens, steps
        place = grid[0] * grid[1] // 2
        return _with_middle(tokens, place), _with_middle(steps, place)

    def extra_repr(self) -> str:
        return f"{self.dim}, directions={self.directions}, middle={self.middle}"


def _with_middle(numbers: Tensor, place: int) -> Tensor:
    """Numbers of tokens or steps ``(K, T)`` with ``place`` inserted at index ``place``; the others make room for it."""
    shifted = numbers + (numbers >= place)
    own = torch.full_like(numbers[:, :1], place)
    return torch.cat([shifted[:, :place], own, shifted[:, place:]], 1)


class LocalMambaBlock(BiMambaBlock):
    """Add, Norm, Mixer with a `LocalMamba`; arguments as `BiMambaBlock` takes them."""

    mixer_class = LocalMamba

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor | None, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """As `BiMambaBlock`, of tokens of a map of ``grid = (H, W)``."""
        if residual is not None:
            x = self.drop_path(x)
        x, residual = self.norm(x, residual)
        return self.mixer(x, grid), residual
