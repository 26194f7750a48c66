"""VMamba's block, and the same as a drop-in for any network of feature maps (Liu et al. 2024, section 4.4)."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vimzoo.ops.experts import GATED_ACTIVATIONS
from vimzoo.ops.mixers import Ready, run

from .checks import check_map, check_norm_dtype, check_rates, check_sizes, inner_width
from .linear import has_a_fast_form, is_plain, passes_on, runs_in_one_call
from .maps import map_norm
from .mlp import Mlp
from .moe import MoE
from .plain import apply_norm
from .ss2d import SS2D

GATED_NAMES = {plain: gated for gated, plain in GATED_ACTIVATIONS.items()}


@has_a_fast_form
class VSSBlock(nn.Module):
    """``x + SS2D(norm(x))``, then ``x + MLP(norm(x))``, on maps with channels last.

    Args:
        dim: Channels C of the map.
        d_state, ratio, dt_rank, act, d_conv, conv_bias, gate, paths, out_norm, out_act, ssd, init: As in `SS2D`.
            ``ratio=0`` leaves the branch out.
        ssm_drop_rate: Dropout of the first branch.
        ssm_args: Further keyword arguments of `SS2D`.
        mlp_ratio: Hidden width of the MLP in multiples of ``dim``; 0 leaves it out, as in the first VMamba.
        mlp_act: Its activation.
        mlp_gated: A gated MLP (``gmlp``).
        mlp_drop_rate: Its dropout.
        norm: ``"layer"``, ``"batch"`` or ``"none"``.
        post_norm: Normalise the output of a branch instead of its input.
        drop_path: Rate at which a branch is dropped.
        channels_last: Maps are ``(B, H, W, C)``; else ``(B, C, H, W)``, best in torch's channels-last format.
        mlp: ``"dense"``, or ``"moe"`` for `vimzoo.layers.MoE`, whose experts have the hidden width ``mlp_ratio`` says.
        mlp_args: Further keyword arguments of `MoE`, such as ``experts`` and ``top_k``.

    Raises:
        ValueError: an option has an unknown value, or a size is not positive.
    """

    channels_last: Final[bool]
    scan_class: type[SS2D] = SS2D

    def __init__(
        self,
        dim: int,
        d_state: int = 1,
        ratio: float = 1.0,
        dt_rank: int | None = None,
        act: str = "silu",
        d_conv: int = 3,
        conv_bias: bool = False,
        gate: str = "none",
        paths: Any = "cross",
        out_norm: str = "layer",
        out_act: bool = False,
        ssd: bool = False,
        init: str = "mamba",
        ssm_drop_rate: float = 0.0,
        ssm_args: Mapping[str, Any] | None = None,
        mlp_ratio: float = 4.0,
        mlp_act: str = "gelu",
        mlp_gated: bool = False,
        mlp_drop_rate: float = 0.0,
        norm: str = "layer",
        post_norm: bool = False,
        drop_path: float = 0.0,
        channels_last: bool = True,
        mlp: str = "dense",
        mlp_args: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        check_sizes(dim=dim)
        check_rates(drop_path=drop_path)
        if mlp not in ("dense", "moe"):
            raise ValueError(f"mlp: expected 'dense' or 'moe', got {mlp!r}")
        if mlp_args and mlp == "dense":
            raise ValueError("mlp_args: expected None with mlp='dense'")
        for name, value in {"ratio": ratio, "mlp_ratio": mlp_ratio}.items():
            if not value >= 0:
                raise ValueError(f"{name}: expected at least 0 (0 omits the branch), got {value!r}")
        self.dim = dim
        self.axes = 2 + self.scan_class.grid_axes
        self.post_norm = post_norm
        self.channels_last = channels_last
        self.norm1: nn.Module | None = None
        self.ss2d: nn.Module | None = None
        self.norm2: nn.Module | None = None
        self.mlp: nn.Module | None = None
        if ratio > 0:
            self.norm1 = map_norm(norm, dim, axes=self.axes, **dd)
            self.ss2d = self.scan_class(
                dim, d_state, ratio, dt_rank, act, d_conv, conv_bias, gate=gate, paths=paths, out_norm=out_norm,
                out_act=out_act, ssd=ssd, init=init, drop_rate=ssm_drop_rate, **(ssm_args or {}), **dd,
            )  # fmt: skip
        if mlp_ratio > 0:
            self.norm2 = map_norm(norm, dim, axes=self.axes, **dd)
            hidden = inner_width("mlp_ratio", mlp_ratio, dim)
            if mlp == "moe":
                act_name = GATED_NAMES.get(mlp_act, mlp_act) if mlp_gated else mlp_act
                self.mlp = MoE(dim, hidden, act=act_name, drop_rate=mlp_drop_rate, **(mlp_args or {}), **dd)
            else:
                self.mlp = Mlp(dim, hidden, mlp_act, mlp_gated, mlp_drop_rate, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map -> map of the same shape, ``(B, H, W, C)`` or without ``channels_last`` ``(B, C, H, W)``.

        Raises:
            ValueError: ``x`` is not such a map, has no positions, or is of float64 and the weights are not.
        """
        x = check_map(x, self.dim, 3 if self.channels_last else 1, 1, self.axes)
        if not self.channels_last:
            x = x.movedim(1, -1)
        if self.ss2d is not None and self.norm1 is not None:
            added: Tensor | None = None
            if not torch.jit.is_scripting():
                check_norm_dtype(x, self.norm1)
                added = self._added(x, self.norm1, self.ss2d)
            if added is None:
                y = x
                if not self.post_norm:
                    y = self.norm1(x) if torch.jit.is_scripting() else apply_norm(self.norm1, x)
                y = self.ss2d(y)
                if self.post_norm:
                    y = self.norm1(y) if torch.jit.is_scripting() else apply_norm(self.norm1, y)
                added = x + self.drop_path(y)
            x = added
        if self.mlp is not None and self.norm2 is not None:
            added = None
            if not torch.jit.is_scripting():
                check_norm_dtype(x, self.norm2)
                added = self._added(x, self.norm2, self.mlp)
            if added is None:
                y = x
                if not self.post_norm:
                    y = self.norm2(x) if torch.jit.is_scripting() else apply_norm(self.norm2, x)
                y = self.mlp(y)
                if self.post_norm:
                    y = self.norm2(y) if torch.jit.is_scripting() else apply_norm(self.norm2, y)
                added = x + self.drop_path(y)
            x = added
        return x if self.channels_last else x.movedim(-1, 1)

    @torch.jit.ignore
    def _added(self, x: Tensor, norm: Any, branch: Any) -> Tensor | None:
        """A branch in inference, added to its input; ``None`` where its parts have to run one by one."""
        return branch.in_one_call(x, norm, add=True) if self._adds(branch) else None

    def _adds(self, branch: nn.Module | None) -> bool:
        """Whether a branch starts with its norm, is one of ours, and is added as it is."""
        known = is_plain(branch, SS2D) or is_plain(branch, Mlp)
        return known and not self.post_norm and passes_on(self._modules["drop_path"])

    @torch.jit.ignore
    def prepare(self, x: Tensor) -> list[Ready]:
        """The branches where `runs_in_one_call`, for maps like ``x``; none where one of them has to run in parts."""
        parts: Any = self._modules  # without the detour by which a module finds its children
        found: list[Ready] = []
        for name, norm in (("ss2d", "norm1"), ("mlp", "norm2")) if self.channels_last else ():
            branch = parts.get(name)
            if branch is not None:
                ready = branch.prepare(x, parts[norm], add=True) if self._adds(branch) else None
                if ready is None:
                    return []
                found.append(ready)
        return found


def infer_blocks(blocks: nn.Module, x: Tensor) -> Tensor | None:
    """A `torch.nn.Sequential` of `VSSBlock` in inference, on a map ``(B, H, W, C)``: all are prepared before one runs.

    After a kernel, which empties the caches, Python takes several times as long for the same.

    Returns:
        Their output; ``None`` where they have to be called.
    """
    if not runs_in_one_call(x) or not is_plain(blocks, nn.Sequential):
        return None
    ready: list[Ready] = []
    for block in blocks:  # type: ignore[attr-defined]
        found = block.prepare(x) if is_plain(block, VSSBlock) else []
        if not found:
            return None
        ready += found
    return run(ready, x)[0] if ready else None


class VSSBlock2d(VSSBlock):
    """`VSSBlock` for maps ``(B, C, H, W)``, with the sizes of VMamba-T, to drop into any convolutional network.

    Args:
        dim: Channels C.
        channels_last: Take ``(B, H, W, C)`` instead.
        **options: As `VSSBlock` takes them.
    """

    def __init__(self, dim: int, *, channels_last: bool = False, **options: Any) -> None:
        super().__init__(dim, channels_last=channels_last, **options)
