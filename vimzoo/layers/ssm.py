"""The state-space core that every model of this package is built on."""

import math
from collections.abc import Callable, Collection
from typing import Any, Self

import torch
from timm.models import register_notrace_function
from torch import Tensor, nn

from vimzoo.errors import UsageError
from vimzoo.ops import linear, scan_codes
from vimzoo.ops.mixers import Mixer

from .checks import check_sizes
from .linear import has_a_fast_form, tensor_of
from .quantized import linear_weight

PARAMETERS = ("A_log", "D", "x_proj", "dt_proj", "dt_bias")


@register_notrace_function  # branches on the dtype, which FX cannot trace
def decay_rates(A_log: Tensor) -> Tensor:
    """``A = -exp(A_log)`` in float32, or float64 for float64: half precision would cost A three digits."""
    return -torch.exp(A_log if A_log.dtype == torch.float64 else A_log.float())


@has_a_fast_form
class SelectiveSSM(nn.Module):
    """Selective state-space scan along K directions, with the parameters of all directions stacked.

    For each direction: ``[dt | B | C] = x_proj x``, ``delta = softplus(dt_proj dt + dt_bias)``,
    ``h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t`` with ``A = -exp(A_log)``, ``y_t = <C_t, h_t> + D x_t``
    (Gu & Dao 2023, section 3). Outputs of all directions are added where their tokens lie.

    Parameters: ``A_log (K, D, N)``, ``D (K, D)``, ``x_proj (K, R+2N, D)``, ``dt_proj (K, D, R)``,
    ``dt_bias (K, D)``; K is 1 in those that ``shared`` names. With ``heads`` the R numbers ``dt`` are the step
    sizes of R heads, D/R channels each, that have one decay rate and bias each (Dao & Gu 2024, section 7.1):
    ``A_log (K, R)``, ``dt_bias (K, R)``, no ``dt_proj``.

    Args:
        dim: Channels D.
        d_state: States N per channel.
        dt_rank: Rank R of the step-size projection.
        directions: Number K of scan directions.
        shared: Names of those of the five parameters that all directions share.
        separate_inputs: Each direction has its own input, ``x`` is ``(B, L, K, D)`` (Vim's two
            convolutions); else all share one ``(B, L, D)``.
        dt_min, dt_max, dt_floor: Range and lower bound of the initial step sizes.
        dt_scale: Factor on the initial ``dt_proj``.
        dt_init: Initial ``dt_proj``, ``"random"`` or ``"constant"``.
        init: Initialisation of ``A_log``, ``dt_proj`` and ``dt_bias``: ``"mamba"`` as above; ``"random"`` normal, the
            latter two a tenth of that; ``"zero"`` A of -1 and the latter two uniform in 0..0.1 (VMamba's v0,
            v1 and v2; Liu et al. 2024, appendix, finds no difference).
        heads: Mamba-2's form, see above.

    Raises:
        ValueError: a size or ``dt_min`` is not positive, ``dt_max`` is less than ``dt_min``, a name in ``shared``,
            ``dt_init`` or ``init`` is unknown, or heads do not divide the channels.
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
        init: str = "mamba",
        heads: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, d_state=d_state, dt_rank=dt_rank, directions=directions)
        if not set(shared) <= set(PARAMETERS):
            raise ValueError(f"shared: expected names among {PARAMETERS}, got {tuple(shared)}")
        if dt_init not in ("random", "constant"):
            raise ValueError(f"dt_init: expected 'random' or 'constant', got {dt_init!r}")
        if init not in ("mamba", "random", "zero"):
            raise ValueError(f"init: expected 'mamba', 'random' or 'zero', got {init!r}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min: expected a positive number of at most dt_max={dt_max}, got {dt_min}")
        if heads and dim % dt_rank:
            raise ValueError(
                f"dt_rank: expected a number of heads that divides {dim} channels, got {dt_rank}"
            )
        self.dim = dim
        self.d_state = d_state
        self.dt_rank = dt_rank
        self.directions = directions
        self.separate_inputs = separate_inputs
        self.dt_range = (dt_min, dt_max, dt_floor)
        self.dt_init = dt_init
        self.init = init
        self.dt_scale = dt_scale

        def stacked(name: str, *shape: int) -> nn.Parameter:
            count = 1 if name in shared else directions
            return nn.Parameter(torch.empty(count, *shape, device=device, dtype=dtype))

        self.A_log = stacked("A_log", dt_rank) if heads else stacked("A_log", dim, d_state)
        self.D = stacked("D", dim)
        self.x_proj = stacked("x_proj", dt_rank + 2 * d_state, dim)
        self.dt_proj = None if heads else stacked("dt_proj", dim, dt_rank)
        self.dt_bias = stacked("dt_bias", dt_rank if heads else dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values; ``init="mamba"``: ``A = -(1..N)`` (of a head -1..-16), log-uniform steps in
        ``[dt_min, dt_max]``."""
        nn.init.ones_(self.D)
        bound = self.dim**-0.5  # torch's default for a linear layer
        nn.init.uniform_(self.x_proj, -bound, bound)
        if self.init == "mamba":
            self._reset_as_mamba()
            return
        random = self.init == "random"
        if random:
            nn.init.normal_(self.A_log)
        else:
            nn.init.zeros_(self.A_log)
        for parameter in (self.dt_proj, self.dt_bias):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.1) if random else nn.init.uniform_(parameter, 0.0, 0.1)

    def _reset_as_mamba(self) -> None:
        if self.dt_proj is None:
            self.A_log.copy_(torch.empty_like(self.A_log, dtype=torch.float32).uniform_(1, 16).log())
        else:
            states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_log.device)
            self.A_log.copy_(states.log().expand_as(self.A_log))
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
            return linear(x, self.x_proj.flatten(0, 1)).unflatten(-1, (-1, rows))
        return linear(x, self.x_proj.expand(self.directions, -1, -1))

    def step_parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Decay rates ``(K, D, N)``, step projection ``(K or 1, D, R)`` and bias ``(K, D)`` as the op takes them.

        With heads, a head's numbers are repeated for its channels, its step size by a projection of zeros and ones.
        """
        rates, dt_proj = decay_rates(self.A_log), self.dt_proj
        if dt_proj is not None:
            return rates, dt_proj, self.dt_bias
        width = self.dim // self.dt_rank
        rates = rates.repeat_interleave(width, 1).unsqueeze(-1).expand(-1, -1, self.d_state)
        one_hot = torch.eye(self.dt_rank, dtype=self.dt_bias.dtype, device=self.dt_bias.device)
        return (
            rates,
            one_hot.repeat_interleave(width, 0).unsqueeze(0),
            self.dt_bias.repeat_interleave(width, 1),
        )

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
        """Scans ``x`` along the K paths and sums the results.

        Args:
            x: ``(B, L, D)``, or ``(B, L, K, D)`` with ``separate_inputs``.
            z: Gate ``(B, L, D)``; the sum is multiplied by ``silu(z)``.
            codes, table: The paths, as `vimzoo.ops.paths.path.path_codes` and ``path_table`` give them.
            height, width: The grid, ``L = height * width``; a sequence is ``1 x L``.
            merge: Sum the directions; else return each in its path's order.

        Returns:
            ``(B, L, D)``, or ``(B, K, T, D)`` without ``merge``.
        """
        rates, dt_proj, dt_bias = self.step_parameters()
        rows = self.project(x)
        return scan_codes(
            x, rows, rates, dt_proj, dt_bias, self.D, z, codes=codes, table=table, height=height, width=width,
            merge=merge,
        )  # fmt: skip

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """As `torch.nn.Module.apply`, by which captum's DeepLift enters a model.

        Raises:
            UsageError: ``fn`` is DeepLift's. It has rules for a few activations and silently treats all other
                modules as linear; of a Vim's score it attributed two per cent.
        """
        origin = getattr(fn, "__module__", None) or ""
        if origin.startswith("captum.") and "deep_lift" in origin:
            raise UsageError(
                f"captum's DeepLift has no rule for the selective scan of {type(self).__name__}, and would be wrong "
                "without an error; use IntegratedGradients, GradientShap or Occlusion, or vimzoo.explain"
            )
        return super().apply(fn)

    def extra_repr(self) -> str:
        return f"{self.dim}, d_state={self.d_state}, dt_rank={self.dt_rank}, directions={self.directions}"


def mixer_of(
    first: Any,
    conv: Any,
    ssm: Any,
    norm: Any,
    last: Any,
    reverse: tuple[bool, ...],
    codes: list[int],
    scale: float = 1.0,
) -> Mixer | None:
    """The parameters of a mixer's layers for `vimzoo.ops.mixers.prepare`; ``None`` of a scan with heads.

    Args:
        first, conv, ssm, norm, last: The layers; ``norm`` follows the scan and may be ``None``.
        reverse, codes, scale: As in `vimzoo.ops.mixers.Mixer`.
    """
    if ssm.dt_proj is None:
        return None

    in_weight, out_weight = linear_weight(first), linear_weight(last)
    if in_weight is None or out_weight is None:
        return None

    def pair(layer: Any) -> tuple[Any, Any]:
        return (None, None) if layer is None else (tensor_of(layer, "weight"), tensor_of(layer, "bias"))

    scan: Any = [tensor_of(ssm, name) for name in ("x_proj", "dt_proj", "dt_bias", "D")]
    first_two, last_two = (in_weight, tensor_of(first, "bias")), (out_weight, tensor_of(last, "bias"))
    tensors = (*first_two, *pair(conv), *scan, *pair(norm), *last_two, tensor_of(ssm, "A_log"))
    return Mixer._make((*tensors, reverse, tuple(codes), 1.0 if norm is None else norm.eps, scale))
