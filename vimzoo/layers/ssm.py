"""The state-space core that every model of this package is built on."""

import math
from collections.abc import Collection

import torch
from timm.models import register_notrace_function
from torch import Tensor, nn

import vimzoo.ops  # noqa: F401  registers torch.ops.vimzoo

PARAMETERS = ("A_log", "D", "x_proj", "dt_proj", "dt_bias")


@register_notrace_function  # the dtype decides, which FX cannot follow
def decay_rates(A_log: Tensor) -> Tensor:
    """``A = -exp(A_log)`` in float32, or float64 for float64: half precision would cost A three digits."""
    return -torch.exp(A_log if A_log.dtype == torch.float64 else A_log.float())


class SelectiveSSM(nn.Module):
    """Selective state-space scan along K directions, with the parameters of all directions stacked.

    For each direction: ``[dt | B | C] = x_proj x``, ``delta = softplus(dt_proj dt + dt_bias)``,
    ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t`` with ``A = -exp(A_log)``, ``y_t = <C_t, h_t> + D x_t``
    (Gu & Dao 2023, section 3). Outputs of all directions are added where their tokens lie.

    Parameters: ``A_log (K, D, N)``, ``D (K, D)``, ``x_proj (K, R+2N, D)``, ``dt_proj (K, D, R)``,
    ``dt_bias (K, D)``; K is 1 in those that ``shared`` names.

    Args:
        dim: Channels D.
        d_state: States N per channel.
        dt_rank: Rank R of the step-size projection.
        directions: Number K of scan directions.
        shared: Which of the five parameters all directions have in common.
        separate_inputs: Each direction brings its own input, ``x`` is ``(B, L, K, D)`` (Vim's two
            convolutions); else one ``(B, L, D)`` serves all.
        dt_min, dt_max, dt_floor: Range and lower bound of the initial step sizes.
        dt_scale: Factor on the initial ``dt_proj``.
        dt_init: Initial ``dt_proj``, ``"random"`` or ``"constant"``.

    Raises:
        ValueError: a size is not positive, or a name in ``shared`` or ``dt_init`` is unknown.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        dt_rank: int = 12,
        directions: int = 1,
        shared: Collection[str] = (),
        separate_inputs: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
        dt_scale: float = 1.0,
        dt_init: str = "random",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "d_state": d_state, "dt_rank": dt_rank, "directions": directions}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        if not set(shared) <= set(PARAMETERS):
            raise ValueError(f"shared: expected names among {PARAMETERS}, got {tuple(shared)}")
        if dt_init not in ("random", "constant"):
            raise ValueError(f"dt_init: expected 'random' or 'constant', got {dt_init!r}")
        self.dim = dim
        self.d_state = d_state
        self.dt_rank = dt_rank
        self.directions = directions
        self.separate_inputs = separate_inputs
        self.dt_range = (dt_min, dt_max, dt_floor)
        self.dt_init = dt_init
        self.dt_scale = dt_scale

        def stacked(name: str, *shape: int) -> nn.Parameter:
            count = 1 if name in shared else directions
            return nn.Parameter(torch.empty(count, *shape, device=device, dtype=dtype))

        self.A_log = stacked("A_log", dim, d_state)
        self.D = stacked("D", dim)
        self.x_proj = stacked("x_proj", dt_rank + 2 * d_state, dim)
        self.dt_proj = stacked("dt_proj", dim, dt_rank)
        self.dt_bias = stacked("dt_bias", dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Mamba's initialisation: ``A = -(1..N)``, ``D = 1``, log-uniform steps in ``[dt_min, dt_max]``."""
        states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_log.device)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        nn.init.ones_(self.D)
        bound = self.dim**-0.5  # torch's default for a linear layer
        nn.init.uniform_(self.x_proj, -bound, bound)
        scale = self.dt_rank**-0.5 * self.dt_scale
        if self.dt_init == "constant":
            nn.init.constant_(self.dt_proj, scale)
        else:
            nn.init.uniform_(self.dt_proj, -scale, scale)
        dt_min, dt_max, dt_floor = self.dt_range
        uniform = torch.rand(self.dt_bias.shape, dtype=torch.float32, device=self.dt_bias.device)
        step = torch.exp(uniform * math.log(dt_max / dt_min) + math.log(dt_min)).clamp(min=dt_floor)
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def project(self, x: Tensor) -> Tensor:
        """The rows ``[dt | B | C]`` of every token, ``(B, L, K or 1, R+2N)``, from ``x`` as ``forward``
        takes it.

        Pointwise, so in token order: projection and scan order commute.
        """
        rows = self.dt_rank + 2 * self.d_state
        if not self.separate_inputs:
            return torch.ops.vimzoo.linear(x, self.x_proj.flatten(0, 1)).unflatten(-1, (-1, rows))
        return torch.ops.vimzoo.linear(x, self.x_proj.expand(self.directions, -1, -1))

    def forward(
        self,
        x: Tensor,
        z: Tensor | None,
        codes: list[int],
        table: Tensor | None,
        height: int,
        width: int,
        merge: bool = True,
    ) -> Tensor:
        """Scans ``x`` along the K paths and adds the results up.

        Args:
            x: ``(B, L, D)``, or ``(B, L, K, D)`` with ``separate_inputs``.
            z: Gate ``(B, L, D)``; the sum is multiplied by ``silu(z)``.
            codes, table: The paths, as `vimzoo.ops.scan_path.path_codes` and ``path_table`` give them.
            height, width: The grid, ``L = height * width``; a sequence is ``1 x L``.
            merge: Add the directions up; else return each in its path's order.

        Returns:
            ``(B, L, D)``, or ``(B, K, T, D)`` without ``merge``.
        """
        y, _ = torch.ops.vimzoo.scan_paths(
            x,
            self.project(x),
            decay_rates(self.A_log),
            self.dt_proj,
            self.dt_bias,
            self.D,
            z,
            codes,
            table,
            height,
            width,
            merge,
            torch.is_grad_enabled(),
            None,
        )
        return y

    def extra_repr(self) -> str:
        return f"{self.dim}, d_state={self.d_state}, dt_rank={self.dt_rank}, directions={self.directions}"
