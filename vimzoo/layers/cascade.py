"""VMamba's cascade scan, an ablation: rows, each a sequence of its own, then columns (Liu et al. 2024, appendix)."""

import torch.nn.functional as F
from torch import Tensor

from vimzoo.ops import linear, scan_codes

from .ssm import SelectiveSSM


def _pair(parameter: Tensor, first: int) -> Tensor:
    """The slices of directions ``first`` and ``first + 1``; the parameter itself if all directions share it."""
    return parameter if parameter.shape[0] == 1 else parameter.narrow(0, first, 2)


class CascadeSSM(SelectiveSSM):
    """A `SelectiveSSM` of four directions that reads rows forward and backward, then columns of the result.

    Unlike with other paths, every line starts with a state of zero, and the two results of a line are added step by
    step in the order in which they were read: the backward one is not turned round. That is what the trained cascade
    models do. The input of either half is normalised.
    """

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
        """``(B, H W, D) -> (B, H W, D)``; ``codes`` are those of rows and of columns read as rows.

        ``z``, ``table`` and ``merge`` are not used.
        """
        rows = self._lines(x.reshape(x.shape[0], height, width, x.shape[2]), codes[:2], 0)
        columns = self._lines(rows.transpose(1, 2), codes[2:], 2)
        return columns.transpose(1, 2).reshape(x.shape)

    def _lines(self, x: Tensor, codes: list[int], first: int) -> Tensor:
        """Every row of ``(B, H, W, D)`` read forward and backward by directions ``first`` and ``first + 1``."""
        tokens = F.layer_norm(x, (x.shape[-1],)).flatten(0, 1)
        rates, dt_proj, dt_bias = self.step_parameters()
        rows = linear(tokens, _pair(self.x_proj, first).flatten(0, 1))
        rows = rows.unflatten(-1, (-1, self.dt_rank + 2 * self.d_state))
        y = scan_codes(
            tokens, rows, _pair(rates, first), _pair(dt_proj, first), _pair(dt_bias, first), _pair(self.D, first), None,
            codes=codes, table=None, height=1, width=tokens.shape[1], merge=False,
        )  # fmt: skip
        return y.sum(1).reshape(x.shape)
