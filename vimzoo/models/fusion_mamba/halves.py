"""Two maps as one batch, which a layer that both go through reads at once."""

from torch import Tensor

__all__ = ["halves"]


def halves(x: Tensor) -> tuple[Tensor, ...]:
    """The two halves of a batch ``(2 B, ...)``.

    By a view: onnxscript 0.7.2 cannot write ``chunk`` of a batch whose size is open.
    """
    return x.unflatten(0, (2, x.shape[0] // 2)).unbind(0)
