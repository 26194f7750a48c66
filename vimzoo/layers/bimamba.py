"""Vim's bidirectional Mamba mixer (Zhu et al. 2024, algorithm 1), and SegMamba's with a third direction."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from vimzoo.ops import causal_conv1d
from vimzoo.ops.mixers import Mixer, Norm, Ready, prepare, run
from vimzoo.ops.norm.call import stream_dtype
from vimzoo.ops.paths.path import BIDIRECTIONAL, FORWARD, ScanPath, path_codes

from .checks import check_rates, check_sizes, check_tokens, inner_width
from .linear import apply_linear, has_a_fast_form, is_plain, passes_on, runs_in_one_call, tensor_of
from .norm import AddNorm
from .ssm import SelectiveSSM, mixer_of

_DIRECTIONS = {
    "none": (FORWARD,),
    "v1": BIDIRECTIONAL,
    "v2": BIDIRECTIONAL,
    "v3": (*BIDIRECTIONAL, ScanPath("column")),
}
"""Paths of each kind; across slices, a sequence is a map of one slice per row, read by columns."""


@has_a_fast_form
class CausalConv(nn.Module):
    """Depthwise causal convolution of a sequence in one or more directions, then SiLU.

    Parameters ``weight (K, D, W)`` and ``bias (K, D)``, one slice per direction; the second direction looks
    at the tokens after it, which is the causal convolution of the flipped sequence. With ``slices``, one more looks at
    the tokens before it when the sequence is cut into so many parts and read across them: the first token of each, then
    the second.

    Args:
        dim: Channels D.
        width: Taps W.
        directions: 1, or 2 to add the backward direction.
        bias: Whether there is a bias.
        slices: Consecutive parts of a sequence, for the direction across them; 0 for none.

    Raises:
        ValueError: a size is not positive, or ``directions`` is neither 1 nor 2.
    """

    def __init__(
        self,
        dim: int,
        width: int = 4,
        directions: int = 1,
        bias: bool = True,
        slices: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width)
        if directions not in (1, 2):
            raise ValueError(f"directions: expected 1 or 2, got {directions!r}")
        if slices != 0:
            check_sizes(slices=slices)
        self.dim = dim
        self.slices = slices
        self.along = directions
        self.reverse = [False, True][:directions]
        directions += int(slices > 0)
        self.weight = nn.Parameter(torch.empty(directions, dim, width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(directions, dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's default for a depthwise convolution."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D) -> (B, L, K, D)`` over K-major memory.

        Raises:
            ValueError: ``x`` is not such a sequence, or cannot be cut into the slices.
        """
        x = check_tokens(x, self.dim)
        if self.slices == 0:
            return causal_conv1d(x, self.weight, self.bias, "silu", reverse=self.reverse)
        bias = self.bias
        first, last = (None, None) if bias is None else (bias[: self.along], bias[self.along :])
        along = causal_conv1d(x, self.weight[: self.along], first, "silu", reverse=self.reverse)
        read = x.unflatten(1, (self.slices, -1)).transpose(1, 2)
        across = causal_conv1d(read.flatten(1, 2), self.weight[self.along :], last, "silu", reverse=[False])
        across = across.unflatten(1, (-1, self.slices)).transpose(1, 2).flatten(1, 2)
        return torch.cat([along, across], 2)

    def extra_repr(self) -> str:
        directions, dim, width = self.weight.shape
        return f"{dim}, width={width}, directions={directions}, bias={self.bias is not None}"


@has_a_fast_form
class BiMamba(nn.Module):
    """Mamba mixer that reads its sequence in one or more directions.

    ``[x | z] = in_proj(h)``; per direction a causal convolution, SiLU and a selective scan; the directions'
    sum, halved with ``divide_out``, times ``silu(z)``, goes through ``out_proj``.

    Args:
        dim: Width of a token.
        bimamba: ``"v2"``: each direction has its own convolution and scan (the paper's "Bidirectional SSM +
            Conv1d"). ``"v1"``: one forward convolution and one set of projections, only A differs
            ("Bidirectional SSM"). ``"v3"``: v2 and a third direction across ``slices`` (SegMamba's tri-orientated
            mixer, Xing et al. 2024). ``"none"``: forward only, plain Mamba.
        d_state: States N per channel.
        d_conv: Taps of the convolution.
        expand: Inner width in multiples of ``dim``.
        dt_rank: Rank of the step-size projection, by default ``ceil(dim / 16)``.
        conv_bias: Bias in the convolutions.
        proj_bias: Bias in ``in_proj`` and ``out_proj``.
        divide_out: Halve the sum of v2's two directions; no effect on the others, as in the authors'
            code.
        layer_scale: Initial value of a learned per-channel factor on the output; ``None`` for none.
        dt_min, dt_max, dt_floor, dt_scale, dt_init: As in `SelectiveSSM`.
        slices: Consecutive parts of equal length, for v3: the first token of each is read, then the second of each.
            Of a volume read row by row whose depth this is, they are its slices.

    Raises:
        ValueError: ``bimamba`` is unknown, a size is not positive, or there are slices without v3.
    """

    def __init__(
        self,
        dim: int,
        bimamba: str = "v2",
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | None = None,
        conv_bias: bool = True,
        proj_bias: bool = False,
        divide_out: bool = True,
        layer_scale: float | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
        dt_scale: float = 1.0,
        dt_init: str = "random",
        slices: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if bimamba not in _DIRECTIONS:
            raise ValueError(f"bimamba: expected one of {tuple(_DIRECTIONS)}, got {bimamba!r}")
        check_sizes(dim=dim, d_conv=d_conv, slices=slices)
        if slices > 1 and bimamba != "v3":
            raise ValueError(f"slices: expected 1 with bimamba={bimamba!r}, got {slices!r}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        inner = inner_width("expand", expand, dim)
        paths, separate = _DIRECTIONS[bimamba], bimamba in ("v2", "v3")
        self.dim = dim
        self.bimamba = bimamba
        self.separate = separate
        self.halve = bimamba == "v2" and divide_out
        self.slices = slices
        self.proj_bias = proj_bias
        self.layer_scale = layer_scale
        self.codes = path_codes(paths)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=proj_bias, **dd)
        self.conv = CausalConv(
            inner, d_conv, 2 if separate else 1, conv_bias, slices if bimamba == "v3" else 0, **dd
        )
        self.ssm = SelectiveSSM(
            inner,
            d_state,
            math.ceil(dim / 16) if dt_rank is None else dt_rank,
            directions=len(self.codes),
            shared=("D", "x_proj", "dt_proj", "dt_bias") if bimamba == "v1" else (),
            separate_inputs=separate,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_floor=dt_floor,
            dt_scale=dt_scale,
            dt_init=dt_init,
            **dd,
        )
        self.out_proj = nn.Linear(inner, dim, bias=proj_bias, **dd)
        self.gamma = None if layer_scale is None else nn.Parameter(torch.empty(dim, **dd))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial value of the layer scale; the parts initialise themselves."""
        if self.gamma is not None and self.layer_scale is not None:
            nn.init.constant_(self.gamma, self.layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(B, L, D) -> (B, L, D)``.

        Raises:
            ValueError: ``x`` is not such a sequence, or cannot be cut into the slices.
        """
        x = check_tokens(x, self.dim)
        if self.slices > 1 and x.shape[1] % self.slices != 0:
            raise ValueError(
                f"x: expected a length that {self.slices} slices divide, got {x.shape[1]} tokens"
            )
        if not torch.jit.is_scripting():
            mixer = self.in_one_call() if runs_in_one_call(x) else None
            ready = None if mixer is None else prepare(x, mixer)
            if ready is not None:
                return run([ready], x)[0]
        x = self.in_proj(x) if torch.jit.is_scripting() else apply_linear(self.in_proj, x)
        inner, z = x.chunk(2, dim=-1)
        u = self.conv(inner)
        if not self.separate:
            u = u.select(2, 0)
        y = self.ssm(u, z, self.codes, None, self.slices, x.shape[1] // self.slices)
        y = self._project_out(y)
        return y if self.gamma is None else y * self.gamma

    @torch.jit.ignore
    def in_one_call(self) -> Mixer | None:
        """What `vimzoo.ops.mixers.prepare` is given; ``None`` where the parts have to run one by one."""
        parts: Any = self._modules  # without the detour by which a module finds its children
        first, conv, ssm, last = parts["in_proj"], parts["conv"], parts["ssm"], parts["out_proj"]
        known = is_plain(conv, CausalConv) and is_plain(ssm, SelectiveSSM)
        if not known or conv.slices or self.gamma is not None:
            return None
        return mixer_of(
            first, conv, ssm, None, last, tuple(conv.reverse), self.codes, 0.5 if self.halve else 1.0
        )

    def _project_out(self, y: Tensor) -> Tensor:
        if self.halve and self.proj_bias:
            y = y * 0.5
        y = self.out_proj(y) if torch.jit.is_scripting() else apply_linear(self.out_proj, y)
        # bitwise the same without a bias, and cheaper on the narrower tensor
        return y * 0.5 if self.halve and not self.proj_bias else y


@has_a_fast_form
class BiMambaBlock(nn.Module):
    """Add, Norm, Mixer: adds the last block's output to the stream, normalises it, mixes.

    Args:
        dim: Width of a token.
        norm: ``"rms"`` or ``"layer"``.
        norm_eps: Epsilon of the norm.
        residual_in_fp32: Keep the stream in float32.
        drop_path: Rate at which the last block's output is dropped.
        mixer_args: Keyword arguments of `BiMamba`.

    Raises:
        ValueError: as `AddNorm` and `BiMamba`, or ``drop_path`` is not in 0..1.
    """

    mixer_class: type[nn.Module] = BiMamba

    def __init__(
        self,
        dim: int,
        norm: str = "rms",
        norm_eps: float = 1e-5,
        residual_in_fp32: bool = True,
        drop_path: float = 0.0,
        mixer_args: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_rates(drop_path=drop_path)
        self.norm = AddNorm(dim, norm, norm_eps, residual_in_fp32, device=device, dtype=dtype)
        self.mixer = self.mixer_class(dim, **(mixer_args or {}), device=device, dtype=dtype)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The last block's output and stream, ``(B, L, D)`` each -> this block's output and the stream it read."""
        if residual is not None:
            x = self.drop_path(x)
        if not torch.jit.is_scripting():
            ready = self.prepare(x, residual) if runs_in_one_call(x) else None
            if ready is not None:
                return run([ready], x, residual)  # type: ignore[return-value]
        x, residual = self.norm(x, residual)
        return self.mixer(x), residual

    @torch.jit.ignore
    def prepare(self, x: Tensor, residual: Tensor | None) -> Ready | None:
        """This block where `runs_in_one_call`, for tokens and a stream like these; ``None`` if its parts have to run.

        A dropped path is not looked at.
        """
        parts: Any = self._modules
        norm, mixer = parts["norm"], parts["mixer"]
        mixer = mixer.in_one_call() if is_plain(norm, AddNorm) and is_plain(mixer, BiMamba) else None
        if mixer is None:
            return None
        stream = stream_dtype(x, residual, norm.residual_in_fp32)
        first = Norm(tensor_of(norm, "weight"), tensor_of(norm, "bias"), norm.eps, norm.rms)
        return prepare(x, mixer, first, residual, stream)


def prepare_blocks(blocks: Iterable[Any], x: Tensor, residual: Tensor | None) -> list[Ready]:
    """Successive blocks, and norms, in inference, of which ``x`` and ``residual`` are the first one's; none where one
    cannot be.

    After a kernel, which empties the caches, Python takes several times as long for the same. So all is prepared before
    the first one runs.
    """
    found: list[Ready] = []
    for block in blocks if runs_in_one_call(x) else ():
        known = is_plain(block, BiMambaBlock) and passes_on(block._modules["drop_path"])
        ready = block.prepare(x, residual) if known or is_plain(block, AddNorm) else None
        if ready is None:
            return []
        if residual is None:
            residual = torch.empty_like(x, dtype=ready.stream)  # like the stream that the next block is given
        found.append(ready)
    return found


def infer_blocks(
    blocks: Sequence[nn.Module], x: Tensor, take: Sequence[int]
) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
    """Blocks in inference on the CPU, where those up to the next tapped one run in a row.

    Args:
        blocks: `BiMambaBlock` or others that are called like it.
        x: Tokens ``(B, L, D)``.
        take: Numbers of the blocks to tap.

    Returns:
        The last block's output, the stream that it was given, and both of each block in ``take``.
    """
    residual: Tensor | None = None
    taps: list[tuple[Tensor, Tensor]] = []
    ends = {len(blocks), *(i + 1 for i in take)}
    for begin, end in pairwise([0, *sorted(end for end in ends if 0 < end <= len(blocks))]):
        ready = prepare_blocks(blocks[begin:end], x, residual)
        if ready:
            x, residual = run(ready, x, residual)
        else:
            for block in blocks[begin:end]:
                x, residual = block(x, residual)
        if end - 1 in take and residual is not None:
            taps.append((x, residual))
    return x, residual, taps
