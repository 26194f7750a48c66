"""Attributes that models of stages have in code which grew out of VMamba's and Swin's."""

from collections import OrderedDict
from typing import Any

from torch import nn

from vimzoo.models.counting import count_operations

from .attributes import Computed, OfficialModel
from .official import accept_official_names


class OfficialStages(OfficialModel):
    """What classifiers and backbones have of the authors' attributes."""

    @Computed
    def layers(self) -> nn.ModuleList:
        """The stages on maps ``(B, H, W, C)``, each with the downsampling after it; ours begin with it."""
        stages = list(self.stages)  # type: ignore[arg-type]
        after = [*(stage.downsample for stage in stages[1:]), nn.Identity()]
        return nn.ModuleList(
            nn.Sequential(OrderedDict(blocks=stage.blocks, downsample=down))
            for stage, down in zip(stages, after, strict=True)
        )

    def no_weight_decay_keywords(self) -> dict[str, Any]:
        """None: `no_weight_decay` has whole names."""
        return {}

    def flops(self, shape: tuple[int, int, int] = (3, 224, 224), verbose: bool = True) -> int:
        """Operations of one image of ``shape``, a multiply-add as 1; ``verbose`` has no effect."""
        return count_operations(self, shape)[1]

    def finish(self, given: dict[str, Any]) -> None:
        """What constructors do last; ``given`` are their arguments."""
        self.arguments = given
        self.dims = [info["num_chs"] for info in self.feature_info]  # type: ignore[union-attr]
        self.num_layers = len(self.dims)
        self.set_grad_checkpointing(given["use_checkpoint"])  # type: ignore[operator]
        accept_official_names(self)


class LinearHead(OfficialStages):
    """`OfficialStages` whose ``head`` may be replaced by a linear layer of the pooled features, as theirs is."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "head" and isinstance(value, nn.Linear | nn.Identity) and hasattr(self, "head"):
            self.head.fc = value  # type: ignore[union-attr]
            self.num_classes = getattr(value, "out_features", 0)
        else:
            super().__setattr__(name, value)


def only(name: str, found: Any, expected: Any) -> None:
    """Refuse an argument's other values.

    Raises:
        ValueError: ``found`` is not ``expected``.
    """
    if found != expected:
        raise ValueError(f"{name}: expected {expected!r}, others are not offered, got {found!r}")
