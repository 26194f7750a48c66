"""Records of facts about networks of two images, or of series."""

from dataclasses import dataclass, field
from typing import Any

from .facts import Facts

__all__ = ["ForecastFacts", "FusionFacts", "NetworkFacts"]


@dataclass(frozen=True)
class NetworkFacts(Facts):
    """Facts about one network whose inputs are its attribute `vimzoo.models.inputs.ModelWithInputs.inputs`.

    Attributes:
        purpose: What it makes of its inputs.
        tag: Tag of the weights; empty if there are none with a known address.
        url: Address of the authors' weights.
        linked: Whether the authors' code links to weights in a store without addresses of files.
        scores: Published scores, each with data set and rule.
        recipe: How the authors train, in short.
    """

    purpose: str = ""
    tag: str = field(default="", kw_only=True)
    url: str = field(default="", kw_only=True)
    linked: bool = field(default=False, kw_only=True)
    scores: tuple[str, ...] = field(default=(), kw_only=True)
    recipe: str = field(default="", kw_only=True)

    @property
    def tags(self) -> tuple[str, ...]:
        """One tag, which may be empty."""
        return (self.tag,)

    def weights(self, tag: str) -> dict[str, str]:
        """See `Facts`."""
        return {"url": self.url} if self.url else super().weights(tag)

    def published(self, tag: str) -> dict[str, Any]:
        """See `Facts`."""
        return {"Published scores": list(self.scores), "Training": self.recipe}

    def timm_cfgs(self, **overrides: Any) -> dict[str, dict[str, Any]]:
        """See `Facts`; inputs are not normalised, and there are no classes."""
        cfg: dict[str, Any] = dict(
            num_classes=0,
            pool_size=None,
            crop_pct=1.0,
            mean=(0.0,),
            std=(1.0,),
            first_conv=None,
            classifier=None,
        )
        return super().timm_cfgs(**{**cfg, **overrides})


class FusionFacts(NetworkFacts):
    """Facts about one network that makes one image of two."""

    task = "fusion"
    hub_task = "image-to-image"


class ForecastFacts(NetworkFacts):
    """Facts about one network that forecasts series."""

    task = "forecasting"
    hub_task = "time-series-forecasting"
