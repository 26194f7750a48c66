"""A linear layer with a weight of 8 or 4 bits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vimzoo.ops.quantized import QuantizedWeight, Rounded, quantize_weight, quantized_linear

from .checks import check_tokens
from .linear import has_a_fast_form, is_plain, tensor_of


@has_a_fast_form
class QuantizedLinear(nn.Module):
    """`torch.nn.Linear` with a weight of 8 or 4 bits; see `vimzoo.ops.quantized_linear`.

    The weight is stored in buffers, ``weight_values``, ``weight_scale`` and ``weight_offset``, which a state dict
    holds. A cast of the module to another dtype leaves them as they are. Gradients flow to the input and to the bias;
    an adapter beside the layer can be trained.

    Args:
        layer: Where weight and bias are taken from.
        bits: 8 or 4.
        group: Columns that share a scale, a multiple of 32; None is a whole row.
        symmetric: Without offsets.
        activations: ``"float"``, or ``"int8"`` to round each token to whole numbers.

    Raises:
        ValueError: an option is invalid, or the weight holds NaN or infinity.
    """

    weight_offset: Tensor | None

    def __init__(
        self,
        layer: nn.Linear,
        bits: int = 8,
        *,
        group: int | None = None,
        symmetric: bool = True,
        activations: str = "float",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.activations = activations
        weight = quantize_weight(layer.weight, bits, group=group, symmetric=symmetric)
        self.register_buffer("weight_values", weight.values)
        self.register_buffer("weight_scale", weight.scale)
        self.register_buffer("weight_offset", weight.offset)
        self.bias = layer.bias

    @property
    def quantized(self) -> QuantizedWeight:
        """The weight."""
        own: Any = self._buffers  # without the detour by which a module finds them
        return QuantizedWeight(
            own["weight_values"], own["weight_scale"], own["weight_offset"], self.in_features
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(..., I) -> (..., O)``.

        Raises:
            ValueError: ``x`` has another width, or a gradient is wanted through rounded activations.
        """
        x = check_tokens(x, self.in_features, 0)
        return quantized_linear(x, self.quantized, self.bias, activations=self.activations)

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """Move the weight with the module, but keep its scales in float32."""
        kept = {name: self._buffers[name] for name in ("weight_scale", "weight_offset")}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self

    def extra_repr(self) -> str:
        """Sizes and kind of the weight."""
        weight = self.quantized
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"bits={weight.bits}, group={weight.group}, activations={self.activations}"
        )


def linear_weight(layer: nn.Module | None) -> Tensor | Rounded | None:
    """The weight of a layer that a block in one call may stand in for: a plain linear layer, quantized or not."""
    if is_plain(layer, nn.Linear):
        return tensor_of(layer, "weight")  # type: ignore[arg-type]
    return Rounded(layer.quantized, layer.activations) if is_plain(layer, QuantizedLinear) else None  # type: ignore[union-attr, arg-type]
