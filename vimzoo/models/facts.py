"""What is known about a registered model: a record that its timm configuration, card and tests read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelFacts:
    """Facts about one model, as published unless said otherwise.

    Attributes:
        name: Registered name.
        tag: Recipe of the weights, timm's part after the dot; empty where there are none.
        args: Keyword arguments that make the architecture.
        input_size: Channels, height and width.
        params: Number of parameters, counted here.
        gflops: Billion floating-point operations at ``input_size`` as published, and by whom.
        top1, top5: ImageNet-1k validation accuracy in per cent, and where it is stated.
        hub_id, hub_file: Hugging Face repository and file of the authors' weights.
        url: Address of the authors' weights, where they are not on the hub.
        license: Licence of the weights, SPDX.
        origin: The authors' code.
        paper: arXiv number.
        recipe: How the weights were trained, in short.
        crop_pct: Share of the resized image that evaluation crops.
        note: What else a user should know.
    """

    name: str
    tag: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int, int] = (3, 224, 224)
    num_classes: int = 1000
    params: int | None = None
    gflops: float | None = None
    gflops_source: str = ""
    top1: float | None = None
    top5: float | None = None
    score_source: str = ""
    hub_id: str | None = None
    hub_file: str | None = None
    url: str | None = None
    license: str = "apache-2.0"
    origin: str = ""
    paper: str = ""
    recipe: str = ""
    crop_pct: float = 0.875
    note: str = ""

    @property
    def tagged_name(self) -> str:
        """The name timm lists, with its tag."""
        return f"{self.name}.{self.tag}" if self.tag else self.name

    def timm_cfg(self, *, first_conv: str, classifier: str | None, **overrides: Any) -> dict[str, Any]:
        """timm's pretrained configuration of this model."""
        cfg: dict[str, Any] = dict(
            input_size=self.input_size,
            num_classes=self.num_classes,
            crop_pct=self.crop_pct,
            interpolation="bicubic",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            first_conv=first_conv,
            classifier=classifier,
            license=self.license,
            origin_url=self.origin or None,
            paper_ids=f"arXiv:{self.paper}" if self.paper else None,
        )
        if self.hub_id:
            cfg.update(hf_hub_id=self.hub_id, hf_hub_filename=self.hub_file, custom_load="hf")
        elif self.url:
            cfg.update(url=self.url, custom_load=True)
        return {**cfg, **overrides}
