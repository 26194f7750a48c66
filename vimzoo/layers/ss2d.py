"""VMamba's mixer: a feature map read along several paths by one state-space scan (Liu et al. 2024, section 4.2)."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn

from vimzoo.ops import inference
from vimzoo.ops.mixers import Ready, prepare, run
from vimzoo.ops.paths.path import (
    ATROUS,
    CROSS,
    TABLE,
    ScanPath,
    checked_paths,
    grid_codes,
    path_arguments,
    path_names,
)

from .cascade import CascadeSSM
from .checks import check_map, check_rates, check_sizes, inner_width
from .linear import apply_linear, has_a_fast_form, is_plain, runs_in_one_call
from .maps import Permute, SpatialSoftmax, activation
from .plain import apply_conv, apply_norm, is_depthwise, is_layer_norm, layer_norm_of
from .scripted import scripted_table
from .ssm import SelectiveSSM, mixer_of

_ROW, _ROW_BACK = ScanPath("row"), ScanPath("row").reversed()
SCANS: dict[str, tuple[ScanPath, ...]] = {
    "cross": CROSS,
    "bidirectional": (_ROW, _ROW, _ROW_BACK, _ROW_BACK),
    "unidirectional": (_ROW,) * 4,
    # each row or column is a separate sequence, so these are the paths of a single row
    "cascade": (_ROW, _ROW_BACK, _ROW, _ROW_BACK),
    "atrous": ATROUS,
}
GATES = ("none", "act", "linear")


@has_a_fast_form
class SS2D(nn.Module):
    """Two-dimensional selective scan: projection, depthwise convolution, scan along K paths, norm, gate, projection.

    Args:
        dim: Channels C of the map.
        d_state: States N per channel.
        ratio: Inner width in multiples of ``dim`` (``ssm_ratio``).
        dt_rank: Rank of the step-size projection, by default ``ceil(dim / 16)``; with ``ssd`` the number of heads.
        act: Activation after the convolution, and of the gate: ``"silu"``, ``"gelu"``, ``"relu"``, ``"sigmoid"``,
            ``"none"``.
        d_conv: Size of the depthwise convolution, odd; 1 or less for none.
        conv_bias, proj_bias: Whether the convolution and the two projections have a bias.
        gate: ``"none"`` (``noz``), ``"act"``: the output is multiplied by an activated second projection of the
            input (the first VMamba), ``"linear"``: not activated (``nozact``).
        paths: ``"cross"``: rows, columns, and both backward. ``"bidirectional"`` and ``"unidirectional"``: rows
            only, each direction twice, or forward four times (table 10 of the paper's appendix). ``"cascade"``:
            each row as a separate sequence, then each column. ``"atrous"``: four quarters of the map, of every second
            row and column (EfficientVMamba). Or any number of scan paths, for example
            ``SS2D(96, paths=[ScanPath.hilbert()])``.
        out_norm: Normalisation of the merged output: ``"layer"``, ``"none"``, ``"softmax"`` (over positions),
            ``"sigmoid"``, ``"conv"`` (depthwise 3 x 3) or ``"layer conv"`` (one after the other).
        out_act: GELU after the norm (``oact``).
        ssd: Mamba-2's form of the scan (``m0``): ``dt_rank`` heads with one decay rate and step size each.
        init: ``"mamba"``, ``"random"`` or ``"zero"``, as in `SelectiveSSM` (v0, v1, v2).
        drop_rate: Dropout of the output.
        dt_min, dt_max, dt_floor, dt_scale, dt_init: As in `SelectiveSSM`.

    Raises:
        ValueError: an option has an unknown value, or a size is not positive.
    """

    norm_is_conv: Final[bool]
    has_table: Final[bool]
    scans: ClassVar[Mapping[str, tuple[ScanPath, ...]]] = SCANS
    conv_class: ClassVar[type[nn.Conv2d | nn.Conv3d]] = nn.Conv2d
    grid_axes: ClassVar[int] = 2

    def __init__(
        self,
        dim: int,
        d_state: int = 1,
        ratio: float = 1.0,
        dt_rank: int | None = None,
        act: str = "silu",
        d_conv: int = 3,
        conv_bias: bool = False,
        proj_bias: bool = False,
        gate: str = "none",
        paths: str | Sequence[ScanPath] = "cross",
        out_norm: str = "layer",
        out_act: bool = False,
        ssd: bool = False,
        init: str = "mamba",
        drop_rate: float = 0.0,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
        dt_scale: float = 1.0,
        dt_init: str = "random",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if gate not in GATES:
            raise ValueError(f"gate: expected one of {GATES}, got {gate!r}")
        check_sizes(dim=dim)
        check_rates(drop_rate=drop_rate)
        if not isinstance(d_conv, int) or (d_conv > 1 and d_conv % 2 == 0):
            raise ValueError(f"d_conv: expected an odd size, which keeps the size of the map, got {d_conv!r}")
        inner = inner_width("ratio", ratio, dim)
        self.dim = dim
        self.gate = gate
        self.axes = 2 + self.grid_axes
        self.paths = _checked_paths(paths, self.scans)
        self.path_names = path_names(self.paths)
        self.codes, self.rows = grid_codes(self.paths, self.grid_axes)
        self.has_table = TABLE in self.codes
        self.in_proj = self.new_projection(dim, inner if gate == "none" else 2 * inner, proj_bias, **dd)
        self.conv = (
            self.conv_class(inner, inner, d_conv, padding=d_conv // 2, groups=inner, bias=conv_bias, **dd)
            if d_conv > 1
            else None
        )
        self.act = activation(act)
        core = CascadeSSM if paths == "cascade" else SelectiveSSM
        self.ssm = core(
            inner, d_state, math.ceil(dim / 16) if dt_rank is None else dt_rank, len(self.paths),
            dt_min=dt_min, dt_max=dt_max, dt_floor=dt_floor, dt_scale=dt_scale, dt_init=dt_init,
            init=init, heads=ssd, **dd,
        )  # fmt: skip
        self.norm_is_conv = out_norm == "conv"
        self.out_norm = _out_norm(out_norm, inner, self.conv_class, **dd)
        self.out_act = nn.GELU() if out_act else nn.Identity()
        self.out_proj = self.new_projection(inner, dim, proj_bias, **dd)
        self.drop = nn.Dropout(drop_rate)

    def new_projection(self, inputs: int, outputs: int, bias: bool, **dd: Any) -> nn.Module:
        """The layer before the convolution, or the last one, on the last axis."""
        return nn.Linear(inputs, outputs, bias=bias, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map, or has no positions.
        """
        return self._mixed(check_map(x, self.dim, smallest=1, axes=self.axes))

    def _mixed(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            mixed = self.in_one_call(x)
            if mixed is not None:
                return mixed
        x = self.in_proj(x) if torch.jit.is_scripting() else apply_linear(self.in_proj, x)
        z = x
        if self.gate != "none":
            x, z = x.chunk(2, dim=-1)
        if self.conv is None:
            x = self.act(x)
        elif torch.jit.is_scripting():
            x = self.act(self.conv(x.movedim(-1, 1)).movedim(1, -1))
        else:
            x = apply_conv(self.conv, x, self.act)
        y = self.scan(x)
        gated = False
        if self.norm_is_conv:
            y = self.out_norm(y.movedim(-1, 1)).movedim(1, -1)
        elif torch.jit.is_scripting():
            y = self.out_norm(y)
        else:
            gated = self._gates_in_norm(y, z)
            y = apply_norm(self.out_norm, y, z if gated else None)
        y = self.out_act(y.to(x.dtype))
        if self.gate == "act" and not gated:
            y = y * self.act(z)
        elif self.gate == "linear":
            y = y * z
        y = self.out_proj(y) if torch.jit.is_scripting() else apply_linear(self.out_proj, y)
        return self.drop(y)

    @torch.jit.ignore
    def in_one_call(self, x: Tensor, norm: nn.Module | None = None, add: bool = False) -> Tensor | None:
        """The layer in inference, with arguments as `prepare` takes them; ``None`` where its parts have to run."""
        ready = self.prepare(x, norm, add) if runs_in_one_call(x) else None
        return None if ready is None else run([ready], x)[0]

    @torch.jit.ignore
    def prepare(self, x: Tensor, norm: nn.Module | None = None, add: bool = False) -> Ready | None:
        """The layer where `runs_in_one_call`, for maps like ``x``; ``None`` where its parts have to run one by one.

        Args:
            x: Map ``(B, H, W, C)``.
            norm: A norm of ``x`` before the layer.
            add: Add ``x`` to the result.
        """
        first = layer_norm_of(norm, self.dim)
        if (norm is not None and first is None) or not self._is_one_kernel():
            return None
        parts: Any = self._modules
        mixer = mixer_of(
            parts["in_proj"], parts["conv"], parts["ssm"], parts["out_norm"], parts["out_proj"], (), self.codes
        )  # fmt: skip
        return None if mixer is None else prepare(x, mixer, first, add=add)

    def _is_one_kernel(self) -> bool:
        parts: Any = self._modules  # without the detour by which a module finds its children
        conv, ssm, out_norm, drop = parts.get("conv"), parts["ssm"], parts["out_norm"], parts["drop"]
        return (
            is_plain(conv, nn.Conv2d)
            and is_depthwise(conv)
            and is_plain(parts["act"], nn.SiLU)
            and is_plain(ssm, SelectiveSSM)
            and not self.has_table
            and is_layer_norm(out_norm, ssm.dim)
            and is_plain(parts["out_act"], nn.Identity)
            and self.gate in ("none", "act")
            and is_plain(drop, nn.Dropout)
            and not (drop.training and drop.p)
        )

    @torch.jit.ignore
    def _gates_in_norm(self, y: Tensor, z: Tensor) -> bool:
        """Whether the gate may be applied together with the norm: nothing lies between them, and no hook looks on."""
        plain = is_plain(self.act, nn.SiLU) and is_plain(self.out_act, nn.Identity)
        return self.gate == "act" and plain and inference.can_infer(y, z)

    def scan(self, x: Tensor) -> Tensor:
        """The scan alone, along all paths, on a map ``(B, H, W, D)`` of the inner width."""
        height, width = x.shape[1], x.shape[2]
        table: Tensor | None = None
        if self.has_table:
            if torch.jit.is_scripting():
                table = scripted_table("tokens", self.path_names, height, width, x.device)
            else:
                table = self._table(height, width, x.device)
        y = self.ssm(x.flatten(1, 2), None, self.codes, table, height, width)
        return y.reshape(x.shape)

    @torch.jit.ignore
    def _table(self, height: int, width: int, device: torch.device) -> Tensor:
        return path_arguments(self.paths, height, width, device)[1]  # type: ignore[return-value]  # some path has one

    def extra_repr(self) -> str:
        names = next(
            (name for name, paths in self.scans.items() if paths is self.paths), f"{len(self.paths)} paths"
        )
        return f"{self.dim}, paths={names}, gate={self.gate}"


def _checked_paths(
    paths: str | Sequence[ScanPath], scans: Mapping[str, tuple[ScanPath, ...]]
) -> tuple[ScanPath, ...]:
    if isinstance(paths, str):
        if paths not in scans:
            raise ValueError(f"paths: expected one of {tuple(scans)} or scan paths, got {paths!r}")
        return scans[paths]
    return checked_paths(paths)


def _out_norm(kind: str, dim: int, conv_class: type[nn.Conv2d | nn.Conv3d], **dd: Any) -> nn.Module:
    last = 3 if conv_class is nn.Conv2d else 4

    def conv() -> nn.Module:
        return conv_class(dim, dim, 3, padding=1, groups=dim, bias=False, **dd)

    if kind == "layer":
        return nn.LayerNorm(dim, **dd)
    if kind == "none":
        return nn.Identity()
    if kind == "softmax":
        return SpatialSoftmax()
    if kind == "sigmoid":
        return nn.Sigmoid()
    if kind == "conv":
        return conv()
    if kind == "layer conv":
        # the two that have weights keep the authors' names
        parts = {
            "0": nn.LayerNorm(dim, **dd),
            "nchw": Permute(0, last, *range(1, last)),
            "1": conv(),
            "nhwc": Permute(0, *range(2, last + 1), 1),
        }
        return nn.Sequential(OrderedDict(parts))
    known = ("layer", "none", "softmax", "sigmoid", "conv", "layer conv")
    raise ValueError(f"out_norm: expected one of {known}, got {kind!r}")
