"""The matrices of selective scans: a scan is linear in its tokens, with weights that depend on them.

A scan is ``y_t = sum_s M[t, s] x_s`` with ``M[t, s] = C_t . (exp(A (delta_s+1 + ... + delta_t)) * delta_s B_s)`` for
tokens s that it reads before t, plus ``D`` for s = t (Ali et al. 2024, The Hidden Attention of Mamba Models). Like an
attention matrix it weights the input tokens of every output token; unlike in attention, there is one for every channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vimzoo.errors import UsageError
from vimzoo.layers.attentive import ClassOrder
from vimzoo.ops import reference
from vimzoo.ops.scan.call import ScanCall

CHUNK_BYTES = 2**26
"""Size of the float64 temporary of a chunk of channels, unless a single channel is larger."""


@dataclass(frozen=True)
class TokenMixing:
    """The matrices of one scan.

    Attributes:
        layer: Name of the module that ran the scan, such as ``"blocks.0.mixer.ssm"``.
        grid: Height and width of the map; ``(1, L)`` for a sequence.
        matrices: ``(B, K, L, L)``, or ``(B, K, C, L, L)`` for chosen channels: row t holds the weights of all tokens in
            the output at token t, along each of K paths. Tokens are in the order of the grid.
    """

    layer: str
    grid: tuple[int, int]
    matrices: Tensor


@torch.no_grad()
def token_mixing(
    model: nn.Module,
    images: Tensor,
    layers: str | Sequence[str] = "*",
    channels: Sequence[int] | None = None,
    max_bytes: int = 2**32,
) -> list[TokenMixing]:
    """The matrix of every selective scan that a model runs on some images, exact, before any gate.

    Class tokens are tokens like all others; the function `vimzoo.explain.cam_arguments` returns removes them. With
    MambaIRv2, whose scans read tokens sorted by class, matrices are in the order of the map.

    Args:
        model: Any model with layers of this package, in eager mode or compiled; not exported or scripted.
        images: What the model takes, ``(B, C, H, W)``.
        layers: Pattern or patterns, as of `fnmatch.fnmatch`, of the names of modules whose scans are returned.
        channels: Indices of channels of the scan, to get their matrices; by default the mean over all channels.
        max_bytes: The largest size of the matrices and temporaries. L tokens take ``4 B K L^2`` bytes a layer.

    Returns:
        One `TokenMixing` per scan, in the order in which they ran.

    Raises:
        UsageError: no scan ran in a layer that matches, a channel does not exist, or ``max_bytes`` is not enough;
            the last is known before any matrix is made.
    """
    patterns = [layers] if isinstance(layers, str) else list(layers)
    recorder = _Recorder()
    with recorder.watching(model), torch.compiler.set_stance("force_eager"), recorder:
        model(images)
    chosen = [scan for scan in recorder.scans if any(fnmatch(scan[0], pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(dict.fromkeys(name for name, _, _ in recorder.scans))
        known = f"scans ran in {names}" if names else f"no scan ran in {type(model).__name__}"
        raise UsageError(f"`layers`={layers!r}: no scan matches; {known}")
    _check_size([call for _, call, _ in chosen], channels, max_bytes)
    return [
        TokenMixing(name, (call.height, call.width), _in_order(scan_matrices(call, channels), order))
        for name, call, order in chosen
    ]


@torch.no_grad()
def scan_matrices(call: ScanCall, channels: Sequence[int] | None = None) -> Tensor:
    """The matrices of one call of ``torch.ops.vimzoo.scan_paths``, without its gate.

    Args:
        call: The operator's inputs.
        channels: As `token_mixing` takes them.

    Returns:
        ``(B, K, L, L)``, the mean over channels, or ``(B, K, C, L, L)``; in float32, or float64 for float64. Rows and
        columns of tokens that a path leaves out are zero.

    Raises:
        UsageError: a channel does not exist.
    """
    tokens, delta, A, B, C = reference.path_parameters(call)
    wanted = list(range(call.channels)) if channels is None else list(channels)
    if bad := [channel for channel in wanted if not 0 <= channel < call.channels]:
        raise UsageError(f"`channels`: expected numbers in 0..{call.channels - 1}, got {bad[0]}")
    length = call.length
    slots = 1 if channels is None else len(wanted)
    out = delta.new_zeros(call.batch, len(tokens), slots, length, length)
    chunk = max(1, CHUNK_BYTES // (8 * call.batch * call.steps**2 or 1))
    for k, path in enumerate(tokens):
        for first in range(0, len(wanted), chunk):
            part = torch.tensor(wanted[first : first + chunk], device=delta.device)
            matrix = _along_path(delta[:, k, part], A[k, part], B[:, k], C[:, k])
            if call.D is not None:
                skip = call.D.to(delta.dtype).expand(len(tokens), -1)[k, part]
                matrix.diagonal(dim1=-2, dim2=-1).add_(skip.unsqueeze(-1))
            if channels is None:
                out[:, k, 0] += _to_grid(matrix.sum(1), path, length) / len(wanted)
            else:
                out[:, k, first : first + chunk] = _to_grid(matrix, path, length)
    return out.squeeze(2) if channels is None else out


def _along_path(delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """``(B, C, T, T)`` in the order of a path, from steps ``(B, C, T)``, rates ``(C, N)`` and ``(B, N, T)`` each."""
    time = delta.double().cumsum(-1)  # differences of large sums
    passed = (time.unsqueeze(-1) - time.unsqueeze(-2)).clamp_(min=0).to(delta.dtype)
    if bool((A[:, :1] == A).all()):  # one state, or Mamba-2's heads
        matrix = passed.mul_(A[:, 0, None, None]).exp_().mul_((C.transpose(1, 2) @ B).unsqueeze(1))
        return matrix.tril_().mul_(delta.unsqueeze(-2))
    matrix = torch.zeros_like(passed)
    for n in range(A.shape[-1]):
        weights = C[:, n].unsqueeze(-1) * B[:, n].unsqueeze(-2)
        matrix += torch.exp(A[:, n, None, None] * passed) * weights.unsqueeze(1)
    return matrix.tril_().mul_(delta.unsqueeze(-2))


def _to_grid(matrix: Tensor, path: Tensor, length: int) -> Tensor:
    """``(..., T, T)`` in the order of a path ``(T,)`` -> ``(..., L, L)`` in that of the tokens; pads are dropped."""
    tokens = torch.where(path < 0, length, path)  # row and column L collect the pads
    columns = matrix.new_zeros(*matrix.shape[:-1], length + 1).index_add_(-1, tokens, matrix)
    rows = matrix.new_zeros(*matrix.shape[:-2], length + 1, length + 1).index_add_(-2, tokens, columns)
    return rows[..., :length, :length]


def _in_order(matrices: Tensor, order: Tensor | None) -> Tensor:
    """Matrices of tokens that were sorted, ``order (B, L)``, with rows and columns in the order before."""
    if order is None:
        return matrices
    places = order.argsort(-1)
    return torch.stack([m[..., p, :][..., p] for m, p in zip(matrices, places, strict=True)])


def _check_size(calls: list[ScanCall], channels: Sequence[int] | None, max_bytes: int) -> None:
    per_path = 1 if channels is None else len(channels)
    results = sum(c.batch * c.directions * per_path * c.length**2 * 4 for c in calls)
    largest = max(calls, key=lambda c: c.batch * c.steps**2)
    needed = results + 4 * max(8 * largest.batch * largest.steps**2, CHUNK_BYTES)
    if needed > max_bytes:
        raise UsageError(
            f"`max_bytes`: the matrices of {len(calls)} scans of up to {largest.length} tokens need "
            f"{needed / 2**30:.1f} GiB, more than {max_bytes / 2**30:.1f}; choose fewer `layers` or smaller images"
        )


class _Recorder(TorchDispatchMode):
    """Keeps the inputs of every scan, with the module that ran it and the order its tokens were sorted into."""

    def __init__(self) -> None:
        super().__init__()
        self.scans: list[tuple[str, ScanCall, Tensor | None]] = []
        self.running: list[str] = []
        self.order: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.vimzoo.scan_paths.default:
            call = ScanCall(*args[: len(ScanCall.names(backward=True))])
            self.scans.append((self.running[-1] if self.running else "", call, self.order))
            self.order = None
        return func(*args, **(kwargs or {}))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Keeps ``running``, the names of the modules that are being called, up to date."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                enter = module.register_forward_pre_hook(lambda *_, name=name: self.running.append(name))
                leave = module.register_forward_hook(lambda *_: self._leave(), always_call=True)
                handles = [enter, leave]
                if isinstance(module, ClassOrder):
                    handles.append(module.register_forward_hook(lambda _, __, out: self._sorted(out)))
                for handle in handles:
                    stack.callback(handle.remove)
            yield

    def _leave(self) -> None:
        self.running.pop()

    def _sorted(self, order: Tensor) -> None:
        self.order = order
