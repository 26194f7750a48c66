"""The channel mixers of blocks on maps."""

from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.ops import inference
from vimzoo.ops.mixers import FeedForward, Ready, prepare_mlp, run

from .checks import check_map, check_rates, check_sizes, check_tokens
from .linear import apply_linear, has_a_fast_form, is_plain, runs_in_one_call, tensor_of
from .maps import activation
from .plain import apply_conv, apply_norm, layer_norm_of
from .quantized import linear_weight


@has_a_fast_form
class Mlp(nn.Module):
    """Linear, activation, Linear on the last axis.

    Args:
        dim: Width.
        hidden: Width between the two.
        act: Activation, as `vimzoo.layers.maps.activation` takes it.
        gated: The first layer gives values and gates, ``hidden`` of each; values times activated gates are passed on
            (a GLU, the authors' ``gmlp``).
        drop_rate: Dropout after the activation (not if gated) and after the last layer.

    Raises:
        ValueError: ``act`` is unknown, a width is not positive, or ``drop_rate`` is not in 0..1.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        act: str = "gelu",
        gated: bool = False,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, hidden=hidden)
        check_rates(drop_rate=drop_rate)
        self.dim = dim
        self.gated = gated
        self.fc1 = nn.Linear(dim, 2 * hidden if gated else hidden, device=device, dtype=dtype)
        self.act = activation(act)
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden, dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``.

        Raises:
            ValueError: ``x`` has another width.
        """
        x = check_tokens(x, self.dim, 0)
        if not torch.jit.is_scripting():
            y = self.in_one_call(x)
            if y is not None:
                return y
        x = self.fc1(x) if torch.jit.is_scripting() else apply_linear(self.fc1, x)
        if self.gated:
            values, gates = x.chunk(2, dim=-1)
            x = values * self.act(gates)
        else:
            x = self.drop(self.act(x))
        x = self.fc2(x) if torch.jit.is_scripting() else apply_linear(self.fc2, x)
        return self.drop(x)

    @torch.jit.ignore
    def prepare(self, x: Tensor, norm: nn.Module | None = None, add: bool = False) -> Ready | None:
        """The layer where `runs_in_one_call`, for tokens like ``x``; ``None`` where its parts have to run one by one.

        Args:
            x: ``(..., C)``.
            norm: A norm of ``x`` before the layer.
            add: Add ``x`` to the result.
        """
        parts: Any = self._modules  # without the detour by which a module finds its children
        fc1, fc2, first = parts["fc1"], parts["fc2"], layer_norm_of(norm, self.dim)
        weight1, weight2 = linear_weight(fc1), linear_weight(fc2)
        if (
            weight1 is None
            or weight2 is None
            or (norm is not None and first is None)
            or not self._is_one_kernel()
        ):
            return None
        mlp = FeedForward(weight1, tensor_of(fc1, "bias"), weight2, tensor_of(fc2, "bias"))
        return prepare_mlp(x, mlp, first, add)

    @torch.jit.ignore
    def in_one_call(self, x: Tensor, norm: nn.Module | None = None, add: bool = False) -> Tensor | None:
        """The layer in inference, with arguments as `prepare` takes them; ``None`` where its parts have to run."""
        if not runs_in_one_call(x):
            return None
        ready = self.prepare(x, norm, add)
        if ready is not None:
            return run([ready], x)[0]
        if not (is_plain(self.fc1, nn.Linear) and is_plain(self.fc2, nn.Linear) and self._is_one_kernel()):
            return None
        weights: Any = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        if not inference.can_infer(x, *weights) or not inference.takes_mlp(x.dtype):
            return None
        y = inference.mlp(x if norm is None else apply_norm(norm, x), *weights)
        return x + y if add else y

    def _is_one_kernel(self) -> bool:
        parts: Any = self._modules
        act, drop = parts["act"], parts["drop"]
        return (
            not self.gated
            and is_plain(act, nn.GELU)
            and act.approximate == "none"
            and is_plain(drop, nn.Dropout)
            and not (self.training and drop.p)
        )


class ConvMlp(nn.Module):
    """Linear, depthwise 3 x 3 convolution, GELU, Linear on a map with channels last (Wang et al. 2022, section 3.2).

    Args:
        dim: Width.
        hidden: Width between the two linear layers.
        drop_rate: Dropout after the activation and after the last layer.

    Raises:
        ValueError: a width is not positive, or ``drop_rate`` is not in 0..1.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, hidden=hidden)
        check_rates(drop_rate=drop_rate)
        self.dim = dim
        self.fc1 = nn.Linear(dim, hidden, device=device, dtype=dtype)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, device=device, dtype=dtype)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden, dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, H, W, C) -> (B, H, W, C)``.

        Raises:
            ValueError: ``x`` is not such a map.
        """
        x = check_map(x, self.dim)
        if torch.jit.is_scripting():
            x = self.act(self.conv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
            return self.drop(self.fc2(self.drop(x)))
        x = apply_conv(self.conv, apply_linear(self.fc1, x), self.act)
        return self.drop(apply_linear(self.fc2, self.drop(x)))
