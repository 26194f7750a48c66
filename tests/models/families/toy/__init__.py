"""A family in one folder, as if in vimzoo/models: one small classifier, whose authors use other names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from vimzoo.layers import BiMamba

from ..facts import ModelFacts
from ..family import Family
from ..weights.contents import bare
from ..weights.dialect import Dialect, Slot
from ..weights.loading import build_model, load_into

TOY_FACTS = {
    "toy_tiny": ModelFacts(
        "toy_tiny", "in2px", args=dict(dim=8), input_size=(3, 16, 16), num_classes=5, params=2645, top1=50.0,
        score_source="nobody", license="0BSD", origin="https://toy.invalid", paper="0000.00000",
    )
}  # fmt: skip


class Toy(nn.Module):
    """Patches of 4 x 4 pixels, one mixer, their mean, a classifier."""

    def __init__(
        self, dim: int = 16, num_classes: int = 5, in_chans: int = 3, drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_classes, self.num_features = num_classes, dim
        self.stem = nn.Conv2d(in_chans, dim, 4, stride=4)
        self.mixer = BiMamba(dim)
        self.head = nn.Linear(dim, num_classes)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: Any, prefix: str = "", *, use_ema: bool | None = None) -> None:
        """As the other families."""
        load_into(self, checkpoint_path, checkpoint_filter_fn, use_ema=use_ema, prefix=prefix)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        return self.head(self.mixer(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


def _slots(module: nn.Module) -> list[Slot]:
    state = module.state_dict()
    return [Slot(re.sub("^stem", "trunk", name), name, tuple(value.shape)) for name, value in state.items()]


def _is_official(names: Iterable[str]) -> bool:
    return any(name.startswith("trunk.") for name in names)


TOY = Dialect((Toy,), _slots, _is_official, dict)


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: Any) -> dict[str, Tensor]:
    """As the other families."""
    state_dict = bare(state_dict)
    return TOY.to_native(state_dict, model) if _is_official(state_dict) else dict(state_dict)


FAMILY = Family("Toy", TOY_FACTS, TOY, lambda state: Toy if _is_official(state) else None)

default_cfgs = generate_default_cfgs(
    {
        name: cfg
        for facts in TOY_FACTS.values()
        for name, cfg in facts.timm_cfgs(first_conv="stem", classifier="head").items()
    }
)


@register_model
def toy_tiny(pretrained: bool = False, **kwargs: Any) -> Toy:
    """The only one."""
    return build_model(
        Toy, "toy_tiny", pretrained, checkpoint_filter_fn, **{**TOY_FACTS["toy_tiny"].args, **kwargs}
    )
