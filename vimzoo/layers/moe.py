"""A mixture of experts in place of an MLP (Fedus et al. 2022, Switch Transformers, sections 2.1 and 2.2)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from vimzoo.ops.experts import ACTIVATIONS, GATED_ACTIVATIONS, feed_forward

from .checks import check_rates, check_sizes, check_tokens


class MoE(nn.Module):
    """Several MLPs, of which each token takes the ``top_k`` that a router finds likeliest.

    The results are added with the router's probabilities as factors, which are scaled to add up to 1 if ``top_k > 1``.
    In training `loss` then holds the term that balances the experts, which the trainer of this package adds to its
    loss (see `balance_loss`); in a loop of your own add it yourself.

    Args:
        dim: Width.
        hidden: Width of each expert between its two products.
        experts: Number E of experts.
        top_k: Experts of a token.
        act: Activation, as `vimzoo.ops.feed_forward` takes it, gated or not.
        capacity: Most tokens of an expert in training, in multiples of an even share; tokens beyond it, in order,
            are not computed and get zero from it. None: no limit. In evaluation there is none.
        balance: Weight of the balancing loss.
        drop_rate: Dropout of the result.

    Attributes:
        loss: The balancing loss of the last call in training mode, a scalar: ``balance E sum(f_e p_e)`` with the share
            f_e of tokens whose first choice is expert e, and its mean probability p_e. None before.

    Raises:
        ValueError: an argument has an invalid value.
    """

    loss: Tensor | None

    def __init__(
        self,
        dim: int,
        hidden: int,
        experts: int = 4,
        top_k: int = 1,
        act: str = "gelu",
        capacity: float | None = None,
        balance: float = 0.01,
        drop_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, hidden=hidden, experts=experts, top_k=top_k)
        check_rates(drop_rate=drop_rate)
        if top_k > experts:
            raise ValueError(f"top_k: expected at most the {experts} experts, got {top_k}")
        if act not in ACTIVATIONS and act not in GATED_ACTIVATIONS:
            raise ValueError(f"act: expected one of {(*ACTIVATIONS, *GATED_ACTIVATIONS)}, got {act!r}")
        if capacity is not None and not 0 < capacity < math.inf:
            raise ValueError(f"capacity: expected a positive number or None, got {capacity!r}")
        if not 0 <= balance < math.inf:
            raise ValueError(f"balance: expected a number of at least 0, got {balance!r}")
        self.dim, self.experts, self.top_k, self.act = dim, experts, top_k, act
        self.capacity, self.balance = capacity, balance
        self.loss = None
        dd = {"device": device, "dtype": dtype}
        first = 2 * hidden if act in GATED_ACTIVATIONS else hidden
        self.router = nn.Linear(dim, experts, bias=False, **dd)  # type: ignore[arg-type]
        self.weight1 = nn.Parameter(torch.empty(experts, first, dim, **dd))  # type: ignore[arg-type]
        self.bias1 = nn.Parameter(torch.empty(experts, first, **dd))  # type: ignore[arg-type]
        self.weight2 = nn.Parameter(torch.empty(experts, dim, hidden, **dd))  # type: ignore[arg-type]
        self.bias2 = nn.Parameter(torch.empty(experts, dim, **dd))  # type: ignore[arg-type]
        self.drop = nn.Dropout(drop_rate)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise each expert as two `torch.nn.Linear` layers are, and the router as one."""
        self.router.reset_parameters()
        for weight, bias in ((self.weight1, self.bias1), (self.weight2, self.bias2)):
            bound = 1 / math.sqrt(weight.shape[2])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``.

        Raises:
            ValueError: ``x`` has another width.
        """
        x = check_tokens(x, self.dim, 0)
        tokens = x.reshape(-1, self.dim)
        probabilities = self.router(tokens).float().softmax(-1)
        factors, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.training:
            self.loss = self._balance(probabilities, chosen[:, 0])
        if self.top_k > 1:
            factors = factors / factors.sum(-1, keepdim=True)
        result = tokens.new_zeros(tokens.shape)
        # tokens in the order of their experts, the earlier of an expert's tokens first
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.experts)
        if self.training and self.capacity is not None:
            most = math.ceil(self.capacity * len(order) / self.experts)
            begins = counts.cumsum(0) - counts
            place = torch.arange(len(order), device=x.device) - begins.repeat_interleave(counts)
            order, counts = order[place < most], counts.clamp(max=most)
        rows = order // self.top_k
        y = feed_forward(
            tokens[rows], self.weight1, self.weight2, self.bias1, self.bias2, act=self.act, expert_counts=counts
        )  # fmt: skip
        scaled = y * factors.flatten()[order, None].to(y.dtype)
        result = result.index_add(0, rows, scaled.to(result.dtype))
        return self.drop(result).view(x.shape)

    def _balance(self, probabilities: Tensor, first: Tensor) -> Tensor:
        share = torch.bincount(first, minlength=self.experts) / max(1, len(first))
        return self.balance * self.experts * (share * probabilities.mean(0)).sum()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which cannot hold a loss that waits for its backward pass."""
        return {**self.__dict__, "loss": None}

    def extra_repr(self) -> str:
        """Sizes."""
        return f"dim={self.dim}, experts={self.experts}, top_k={self.top_k}, act={self.act}"


def balance_loss(model: nn.Module) -> Tensor | float:
    """The sum of `MoE.loss` over a model after a call in training mode; 0.0 without experts."""
    losses = [layer.loss for layer in model.modules() if isinstance(layer, MoE) and layer.loss is not None]
    return sum(losses, start=torch.zeros_like(losses[0])) if losses else 0.0
