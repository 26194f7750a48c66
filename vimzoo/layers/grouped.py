"""GroupMamba's mixer: quarters of the channels, each read along one direction (Shaker et al. 2024, section 3.2)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, register_notrace_module
from torch import Tensor, nn

from vimzoo.ops import ScanPath, linear, scan_codes
from vimzoo.ops.paths.path import CROSS, path_arguments, path_codes, path_names

from .checks import check_map, check_rates, check_sizes, inner_width
from .linear import apply_linear
from .mlp import ConvMlp, Mlp
from .plain import apply_conv, apply_norm
from .scripted import scripted_table
from .ssm import SelectiveSSM

GROUPS = len(CROSS)
"""Groups of channels; they read rows, columns, and both backward."""
BETWEEN_GROUPS = tuple(ScanPath.stride((1, GROUPS), 0, k, along=along) for k, along in enumerate(CROSS))
"""The directions on a map whose groups of channels lie side by side, as columns: each reads the tokens of one group."""
REDUCTION = 16
"""Width of a map in multiples of that between the two layers of its channel affinity."""


class GroupedLinear(nn.Module):
    """One matrix per group of channels, without bias.

    Args:
        groups: Number of groups K.
        inputs, outputs: Channels of a group.
    """

    def __init__(
        self,
        groups: int,
        inputs: int,
        outputs: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, outputs, inputs, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As a linear layer of one group."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, K, I) -> (B, L, K, O)``."""
        return linear(x, self.weight)


class GroupedLayerNorm(nn.Module):
    """LayerNorm of each group of channels, with a scale and shift of its own.

    Args:
        groups: Number of groups K.
        dim: Channels of a group D.
        eps: Added to the variance.
    """

    def __init__(
        self,
        groups: int,
        dim: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(groups, dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(groups, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., K, D) -> (..., K, D)``."""
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:], eps=self.eps), self.weight)


@register_notrace_module  # the orders of tokens follow from sizes, which FX cannot follow
class GroupSS2D(nn.Module):
    """Selective scans of four quarters of the channels, one direction each, weighted by the input and by channel.

    ``n = norm(x)``; each quarter of ``n`` passes ``in_proj``, a depthwise convolution and SiLU, the scan along its own
    direction, a norm, a gate and ``out_proj``; the four results y become ``proj(norm(y * skip_scale * n * a))`` with
    the same norm, and the channel affinity ``a = sigmoid(fc2(relu(fc1(mean of n))))``.

    Args:
        dim: Channels C of the map, a multiple of 4 and at least 16.
        d_state: States N per channel.
        d_conv: Size of the depthwise convolution, odd.

    Raises:
        ValueError: a size is not positive, four groups do not divide ``dim``, or ``d_conv`` is even.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 1,
        d_conv: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim, d_state=d_state, d_conv=d_conv)
        if dim % GROUPS or dim < REDUCTION:
            raise ValueError(
                f"dim: expected a multiple of {GROUPS} channels, at least {REDUCTION}, got {dim}"
            )
        if d_conv % 2 == 0:
            raise ValueError(f"d_conv: expected an odd size, which keeps the size of the map, got {d_conv}")
        width = dim // GROUPS
        self.dim = dim
        self.groups = GROUPS
        self.path_names, self.codes = path_names(BETWEEN_GROUPS), path_codes(BETWEEN_GROUPS)
        self.norm = nn.LayerNorm(dim, **dd)
        self.fc1 = nn.Linear(dim, dim // REDUCTION, **dd)
        self.fc2 = nn.Linear(dim // REDUCTION, dim, **dd)
        self.in_proj = GroupedLinear(GROUPS, width, 2 * width, **dd)
        self.conv = nn.Conv2d(dim, dim, d_conv, padding=d_conv // 2, groups=dim, **dd)
        self.act = nn.SiLU()
        rank = math.ceil(width / 16)
        self.ssm = SelectiveSSM(width, d_state, rank, GROUPS, separate_inputs=True, **dd)
        self.out_norm = GroupedLayerNorm(GROUPS, width, **dd)
        self.out_proj = GroupedLinear(GROUPS, width, width, **dd)
        self.skip_scale = nn.Parameter(torch.empty(1, **dd))
        self.proj = nn.Linear(dim, dim, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A factor of 1; the parts initialise themselves."""
        nn.init.ones_(self.skip_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        x = check_map(x, self.dim, 3, 1)
        x = self.norm(x) if torch.jit.is_scripting() else apply_norm(self.norm, x)
        y = x * (self.affinity(x) * self.skip_scale) * self.mix(x)
        if torch.jit.is_scripting():
            return self.proj(self.norm(y))
        return apply_linear(self.proj, apply_norm(self.norm, y))

    def affinity(self, x: Tensor) -> Tensor:
        """Weights ``(B, 1, 1, C)`` of the channels of a map ``(B, H, W, C)``."""
        return self.fc2(F.relu(self.fc1(x.mean((1, 2), keepdim=True)))).sigmoid()

    def mix(self, x: Tensor) -> Tensor:
        """The four scans with their projections, convolutions, norms and gates: ``(B, H, W, C) -> (B, H, W, C)``."""
        u, z = self.in_proj(x.flatten(1, 2).unflatten(-1, (self.groups, -1))).chunk(2, dim=-1)
        u = u.reshape(x.shape)
        if torch.jit.is_scripting():
            u = self.act(self.conv(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        else:
            u = apply_conv(self.conv, u, self.act)
        y = self.out_norm(self.scan(u)) * F.silu(z)
        return self.out_proj(y).reshape(x.shape)

    def scan(self, u: Tensor) -> Tensor:
        """The four scans alone: ``(B, H, W, C) -> (B, H W, 4, C / 4)``."""
        height, width = u.shape[1], self.groups * u.shape[2]
        if torch.jit.is_scripting():
            table = scripted_table("tokens", self.path_names, height, width, u.device)
        else:
            table = _table(height, width, u.device)
        tokens = u.flatten(1, 2).unflatten(-1, (self.groups, -1))
        rows = self.ssm.project(tokens).flatten(1, 2).unsqueeze(2)
        rates, dt_proj, dt_bias = self.ssm.step_parameters()
        y = scan_codes(
            tokens.flatten(1, 2), rows, rates, dt_proj, dt_bias, self.ssm.D, None,
            codes=self.codes, table=table, height=height, width=width,
        )  # fmt: skip
        return y.reshape(tokens.shape)

    def extra_repr(self) -> str:
        return f"{self.dim}, groups={GROUPS}"


@torch.jit.ignore
def _table(height: int, width: int, device: torch.device) -> Tensor:
    return path_arguments(BETWEEN_GROUPS, height, width, device)[1]  # type: ignore[return-value]  # they have one


class GroupBlock(nn.Module):
    """``x + GroupSS2D(x)``, then ``x + ConvMlp(norm(x))``, on maps with channels last.

    Args:
        dim: Channels C of the map, as `GroupSS2D` takes them.
        mlp_ratio: Hidden width of the MLP in multiples of ``dim``.
        drop_path: Rate at which a branch is dropped.
        d_state, d_conv: As in `GroupSS2D`.
        norm_eps: Of the norm before the MLP.

    Raises:
        ValueError: as `GroupSS2D`, or ``drop_path`` is not in 0..1.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        d_state: int = 1,
        d_conv: int = 3,
        norm_eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_rates(drop_path=drop_path)
        self.mixer = GroupSS2D(dim, d_state, d_conv, **dd)
        self.norm = nn.LayerNorm(dim, norm_eps, **dd)
        self.mlp = ConvMlp(dim, inner_width("mlp_ratio", mlp_ratio, dim), **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``."""
        x = x + self.drop_path(self.mixer(x))
        y = self.norm(x) if torch.jit.is_scripting() else apply_norm(self.norm, x)
        return x + self.drop_path(self.mlp(y))


class GroupClassBlock(nn.Module):
    """``c + norm(GroupSS2D(c))``, then ``c + Mlp(norm(c))``, on class tokens: each is a map of one position.

    Args:
        dim, d_state, d_conv: As in `GroupSS2D`.
        mlp_ratio: As in `GroupBlock`.
        norm_eps: Of the norm after the mixer and the one before the MLP.

    Raises:
        ValueError: as `GroupSS2D`.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float = 4.0,
        d_state: int = 1,
        d_conv: int = 3,
        norm_eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim = dim
        self.mixer = GroupSS2D(dim, d_state, d_conv, **dd)
        self.norm1 = nn.LayerNorm(dim, norm_eps, **dd)
        self.norm2 = nn.LayerNorm(dim, norm_eps, **dd)
        self.mlp = Mlp(dim, inner_width("mlp_ratio", mlp_ratio, dim), **dd)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        x = x + self.norm1(self.mixer(x.reshape(-1, 1, 1, self.dim)).reshape(x.shape))
        return x + self.mlp(self.norm2(x))
