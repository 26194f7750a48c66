"""Records of facts about registered models, from which timm configurations, cards and tests are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SHIPPED_TAG = "photos"
"""Tag of the restoration weights in this package, which bundled photographs have trained."""

Scores = Mapping[str, tuple[float, float | None]]
"""Data set -> PSNR in dB, and SSIM where it is published."""


@dataclass(frozen=True)
class Facts:
    """Facts about one model, as published unless said otherwise.

    A *tag* names the recipe of a set of weights: timm's part of the name after the dot. A model without published
    weights has one empty tag.

    Attributes:
        name: Registered name.
        args: Keyword arguments of the constructor that differ from its defaults.
        input_size: Channels, height and width; of a network of series 1, steps and series, because timm asks for three.
        params: Number of parameters, counted here.
        license: SPDX identifier of the weights' licence; "unknown" if none is stated.
        origin: Address of the authors' code.
        paper: arXiv number.
        note: Anything else that a user should know.
        shipped: Folder in this package with the files of weights, each called as its tagged name; None: there are none.
    """

    task: ClassVar[str]
    """``"classification"``, ``"forecasting"``, ``"fusion"``, ``"restoration"``, ``"segmentation"`` or ``"video"``."""
    hub_task: ClassVar[str]
    """The Hugging Face Hub's name for the task."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    input_size: tuple[int, int, int] = field(default=(3, 224, 224), kw_only=True)
    params: int | None = field(default=None, kw_only=True)
    license: str = field(default="apache-2.0", kw_only=True)
    origin: str = field(default="", kw_only=True)
    paper: str = field(default="", kw_only=True)
    note: str = field(default="", kw_only=True)
    shipped: Path | None = field(default=None, kw_only=True)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the published weights, or one empty tag."""
        raise NotImplementedError

    @property
    def purpose(self) -> str:
        """What the model does to an image."""
        raise NotImplementedError

    def weights(self, tag: str) -> dict[str, str]:
        """Where the weights are: ``file`` in `shipped`, ``hub_id`` and ``hub_file``, or ``url``; empty if unknown."""
        return {"file": f"{self.tagged(tag)}.safetensors"} if self.shipped else {}

    def published(self, tag: str) -> dict[str, Any]:
        """What the authors report for the weights ``tag``, as entries of a model card."""
        raise NotImplementedError

    def configuration(self) -> dict[str, Any]:
        """The trainer's default settings of the group ``model``."""
        return {"model_name": self.name, "pretrained": False}

    def tagged(self, tag: str) -> str:
        """The registered name with a tag."""
        return f"{self.name}.{tag}" if tag else self.name

    def timm_cfgs(self, **overrides: Any) -> dict[str, dict[str, Any]]:
        """timm's pretrained configurations by tagged name; ``overrides`` replace entries of all of them."""
        common: dict[str, Any] = dict(
            input_size=self.input_size,
            interpolation="bicubic",
            license=self.license,
            origin_url=self.origin or None,
            paper_ids=f"arXiv:{self.paper}" if self.paper else None,
        )
        cfgs = {}
        for tag in self.tags:
            found = self.weights(tag)
            where: dict[str, Any] = {}
            if self.shipped:
                where = dict(file=str(self.shipped / found["file"]), custom_load=True)
            elif "hub_id" in found:
                where = dict(hf_hub_id=found["hub_id"], hf_hub_filename=found["hub_file"], custom_load="hf")
            elif "url" in found:
                where = dict(url=found["url"], custom_load=True)
            cfgs[self.tagged(tag)] = {**common, **where, **overrides}
        return cfgs


DIGITS: dict[str, Any] = dict(
    num_classes=10, crop_pct=1.0, mean=(0.3061,) * 3, std=(0.3766,) * 3, license="apache-2.0",
)  # fmt: skip
"""Facts about the weights in this package that scikit-learn's digits have trained: what images must look like."""


@dataclass(frozen=True)
class ModelFacts(Facts):
    """Facts about one classifier.

    Attributes:
        tag: Tag of the weights; empty if there are none.
        gflops: Billion floating-point operations at ``input_size`` as published.
        gflops_source: Who published them.
        top1, top5: ImageNet-1k validation accuracy in per cent.
        score_source: Where the accuracy is stated.
        hub_id, hub_file: Hugging Face repository and file of the authors' weights.
        url: Address of the authors' weights, if they are not on the hub.
        recipe: How the weights were trained, in short.
        crop_pct: Share of the resized image that evaluation crops.
        mean, std: What is subtracted from the channels of an image in 0..1, and what they are divided by.
    """

    task = "classification"
    hub_task = "image-classification"

    tag: str = ""
    num_classes: int = field(default=1000, kw_only=True)
    gflops: float | None = field(default=None, kw_only=True)
    gflops_source: str = field(default="", kw_only=True)
    top1: float | None = field(default=None, kw_only=True)
    top5: float | None = field(default=None, kw_only=True)
    score_source: str = field(default="", kw_only=True)
    hub_id: str | None = field(default=None, kw_only=True)
    hub_file: str | None = field(default=None, kw_only=True)
    url: str | None = field(default=None, kw_only=True)
    recipe: str = field(default="", kw_only=True)
    crop_pct: float = field(default=0.875, kw_only=True)
    mean: tuple[float, ...] = field(default=IMAGENET_MEAN, kw_only=True)
    std: tuple[float, ...] = field(default=IMAGENET_STD, kw_only=True)

    @property
    def tags(self) -> tuple[str, ...]:
        """One tag, which may be empty."""
        return (self.tag,)

    @property
    def tagged_name(self) -> str:
        """The name that timm lists, with its tag."""
        return self.tagged(self.tag)

    @property
    def purpose(self) -> str:
        """Number of classes."""
        return f"images to {self.num_classes} classes"

    def weights(self, tag: str) -> dict[str, str]:
        """See `Facts`."""
        if self.hub_id and self.hub_file:
            return {"hub_id": self.hub_id, "hub_file": self.hub_file}
        return {"url": self.url} if self.url else super().weights(tag)

    def published(self, tag: str) -> dict[str, Any]:
        """See `Facts`."""
        scores = [f"top-{k} {score} %" for k, score in ((1, self.top1), (5, self.top5)) if score is not None]
        source = [f"as stated at {self.score_source}"] if scores else []
        return {"Published accuracy on ImageNet-1k": scores + source, "Training": self.recipe}

    def configuration(self) -> dict[str, Any]:
        """See `Facts`; ``num_classes=None`` counts the classes of the data."""
        return {**super().configuration(), "num_classes": None, "drop_rate": 0.0, "drop_path_rate": 0.0}

    def timm_cfgs(self, **overrides: Any) -> dict[str, dict[str, Any]]:
        """See `Facts`; the family adds ``first_conv`` and ``classifier``."""
        cfg: dict[str, Any] = dict(
            num_classes=self.num_classes, crop_pct=self.crop_pct, mean=self.mean, std=self.std
        )
        return super().timm_cfgs(**{**cfg, **overrides})


@dataclass(frozen=True)
class ClipWeights:
    """One published file of a model of clips.

    Attributes:
        file: In the model's Hugging Face repository.
        num_classes: Of the data that it was trained on.
        top1: Accuracy in per cent.
        clips, crops: Views that the accuracy is an average over: clips in time, and crops of each.
        recipe: How the weights were trained, in short.
    """

    file: str
    num_classes: int
    top1: float
    clips: int
    crops: int
    recipe: str


@dataclass(frozen=True)
class VideoFacts(Facts):
    """Facts about one classifier of clips.

    Attributes:
        num_frames: Frames of a clip.
        num_classes: Classes of a model without published weights.
        trained: Published weights by tag.
        hub_id: Hugging Face repository of the authors' weights.
        score_source: Where the accuracies are stated.
    """

    task = "video"
    hub_task = "video-classification"

    num_frames: int = field(default=8, kw_only=True)
    num_classes: int = field(default=1000, kw_only=True)
    trained: Mapping[str, ClipWeights] = field(default_factory=dict, kw_only=True)
    hub_id: str = field(default="", kw_only=True)
    score_source: str = field(default="", kw_only=True)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the published weights, or one empty tag."""
        return tuple(self.trained) or ("",)

    @property
    def purpose(self) -> str:
        """Number of frames and classes."""
        return f"clips of {self.num_frames} frames to classes"

    def weights(self, tag: str) -> dict[str, str]:
        """See `Facts`."""
        return {"hub_id": self.hub_id, "hub_file": self.trained[tag].file} if tag in self.trained else {}

    def published(self, tag: str) -> dict[str, Any]:
        """See `Facts`."""
        if tag not in self.trained:
            return {}
        found = self.trained[tag]
        score = f"top-1 {found.top1} % over {found.clips} x {found.crops} views (clips x crops)"
        return {
            "Published accuracy": [score, f"as stated at {self.score_source}"],
            "Training": found.recipe,
        }

    def configuration(self) -> dict[str, Any]:
        """See `ModelFacts`."""
        return {**super().configuration(), "num_classes": None, "drop_rate": 0.0, "drop_path_rate": 0.0}

    def timm_cfgs(self, **overrides: Any) -> dict[str, dict[str, Any]]:
        """See `Facts`; frames are resized bilinearly and not cropped further."""
        cfg: dict[str, Any] = dict(
            interpolation="bilinear", crop_pct=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD,
            num_classes=self.num_classes,
        )  # fmt: skip
        cfgs = super().timm_cfgs(**{**cfg, **overrides})
        for tag, found in self.trained.items():
            cfgs[self.tagged(tag)]["num_classes"] = found.num_classes
        return cfgs


@dataclass(frozen=True)
class RestorationFacts(Facts):
    """Facts about one network from image to image.

    Attributes:
        purpose: What it does to an image.
        scores: By tag, PSNR and SSIM by data set.
        ensemble: The same as ``scores``, averaged over eight flips and rotations of every image.
        hub_id: Hugging Face repository of the authors' weights.
        files: By tag, the authors' file in that repository; weights without a known address are left out.
        gmacs: Billion multiply-adds for a result of 1280 x 720 pixels as the authors count them.
        recipes: By tag, the trainer's command-line words of the recipe.
        larger: Tagged name of a published model for the same purpose that restores better and takes longer.
        uniform: All blocks are alike, and so are all groups that ``args["depths"]`` lists: parameters and operations
            are linear in both numbers.
    """

    task = "restoration"
    hub_task = "image-to-image"

    purpose: str = ""
    input_size: tuple[int, int, int] = field(default=(3, 64, 64), kw_only=True)
    scores: Mapping[str, Scores] = field(default_factory=dict, kw_only=True)
    ensemble: Mapping[str, Scores] = field(default_factory=dict, kw_only=True)
    hub_id: str = field(default="", kw_only=True)
    files: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    gmacs: float | None = field(default=None, kw_only=True)
    recipes: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    uniform: bool = field(default=False, kw_only=True)
    larger: str = field(default="", kw_only=True)

    @property
    def scale(self) -> int:
        """Output pixels per input pixel and axis."""
        return self.args.get("scale", 1)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags that have scores or a file, or one empty tag."""
        return tuple(dict.fromkeys((*self.scores, *self.files))) or ((SHIPPED_TAG if self.shipped else ""),)

    def weights(self, tag: str) -> dict[str, str]:
        """See `Facts`."""
        if tag in self.files:
            return {"hub_id": self.hub_id, "hub_file": self.files[tag]}
        return super().weights(tag)

    def published(self, tag: str) -> dict[str, Any]:
        """See `Facts`."""
        scores = [
            f"{where} {psnr:.2f} dB" + (f" / {ssim:.4f}" if ssim else "")
            for where, (psnr, ssim) in self.scores.get(tag, {}).items()
        ]
        return {"Published PSNR and SSIM": scores, "Training": self.training(tag)}

    def training(self, tag: str) -> str | None:
        """The command of a published recipe, in Markdown; ``None`` if there is none."""
        words = self.recipes.get(tag)
        return words and f"`vimzoo-train {words}`"

    def configuration(self) -> dict[str, Any]:
        """See `Facts`; ``start`` is a file whose tensors are loaded where they fit."""
        return {**super().configuration(), "start": None}

    def timm_cfgs(self, **overrides: Any) -> dict[str, dict[str, Any]]:
        """See `Facts`; images are neither resized nor normalised."""
        channels = self.input_size[0]
        cfg: dict[str, Any] = dict(
            num_classes=0, pool_size=None, crop_pct=1.0, mean=(0.0,) * channels, std=(1.0,) * channels,
            classifier=None,
        )  # fmt: skip
        return super().timm_cfgs(**{**cfg, **overrides})


@dataclass(frozen=True)
class SegmentationFacts(Facts):
    """Facts about one network that gives every pixel class scores.

    Attributes:
        num_classes: Classes of the network as registered.
        gflops: Billion operations at ``input_size`` as published, and what was counted.
        scores: Published scores, each with data set and rule.
        start: Weights that training begins with.
        recipe: How the authors train, in short.
        deep_supervision: Whether the network has heads of several resolutions.
    """

    task = "segmentation"
    hub_task = "image-segmentation"

    num_classes: int = field(default=2, kw_only=True)
    gflops: str = field(default="", kw_only=True)
    scores: tuple[str, ...] = field(default=(), kw_only=True)
    start: str = field(default="", kw_only=True)
    recipe: str = field(default="", kw_only=True)
    deep_supervision: bool = field(default=False, kw_only=True)

    @property
    def tags(self) -> tuple[str, ...]:
        """One empty tag: there are no weights with a known address."""
        return ("",)

    @property
    def purpose(self) -> str:
        """Number of classes."""
        return f"images to {self.num_classes} classes of pixels"

    def weights(self, tag: str) -> dict[str, str]:
        """See `Facts`."""
        return {}

    def published(self, tag: str) -> dict[str, Any]:
        """See `Facts`."""
        return {"Published scores": list(self.scores), "Training": self.recipe}

    def configuration(self) -> dict[str, Any]:
        """See `Facts`; ``start`` is a file of weights of the network or of its encoder."""
        own = {key: self.args[key] for key in ("backbone", "img_size") if key in self.args}
        own = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
        heads = {"deep_supervision": False} if self.deep_supervision else {}
        rates = {"drop_rate": 0.0, "drop_path_rate": 0.0}
        return {**super().configuration(), "num_classes": None, "start": None, **own, **heads, **rates}

    def timm_cfgs(self, **overrides: Any) -> dict[str, dict[str, Any]]:
        """See `Facts`; images are not cropped."""
        cfg: dict[str, Any] = dict(
            num_classes=self.num_classes, pool_size=None, crop_pct=1.0, crop_mode="squash", mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )  # fmt: skip
        return super().timm_cfgs(**{**cfg, **overrides})
