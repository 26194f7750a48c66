"""A teacher: another model, or the moving average of the one in training, that is learned from beside the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimzoo.data import Splits
from vimzoo.data.batches.several import Given
from vimzoo.errors import UsageError

from .classes import evaluated, published_data

if TYPE_CHECKING:
    from .record import Task
    from .state import State

AVERAGE = "ema"
"""``teacher.model`` of a run that learns from its own moving average."""
SETTINGS = ("compare", "weight", "label_weight", "temperature", "after", "img_size")
"""Of ``teacher``, beside ``model``."""


def soft_loss(scores: Tensor, given: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean cross-entropy with the teacher's probabilities, times temperature^2 (Hinton et al. 2015, section 2).

    Its gradients are those of the Kullback-Leibler divergence. Where the teacher is the moving average, this is the
    loss of MESA (Du et al., NeurIPS 2022).

    Args:
        scores, given: Logits of student and teacher, (B, C).
        temperature: Divides both.
    """
    wanted = (given / temperature).softmax(1)
    return -(temperature**2) * (wanted * (scores / temperature).log_softmax(1)).sum(1).mean()


def hard_loss(scores: Tensor, given: Tensor) -> Tensor:
    """Mean cross-entropy with the teacher's first class (Touvron et al. 2021, section 4), from logits (B, C)."""
    return F.cross_entropy(scores, given.argmax(1))


def token_loss(tokens: Tensor, given: Tensor) -> Tensor:
    """Mean of 2 - 2 cos over tokens (B, L, D), their squared distance at length 1, as VideoMamba's authors have it."""
    return (2 - 2 * F.cosine_similarity(tokens, given, dim=-1)).mean()


@dataclass
class Teacher:
    """What a run learns beside its labels: ``label_weight`` x the task's loss + ``weight`` x the teacher's.

    Attributes:
        model: The teacher; None is the run's moving average.
        compare: ``soft``, ``hard`` or ``tokens``: `soft_loss`, `hard_loss` or `token_loss`.
        weight, label_weight: Of the two losses.
        temperature: Of `soft_loss`.
        after: Share of the epochs before which only labels count.
        columns: Numbers of the data's classes among the teacher's; None if they are the same.
        scale, shift: Per channel, from the data's normalised pixels to the teacher's; None if they are the same.
        img_size: Height and width to which images are resized for the teacher; None leaves them.

    Raises:
        ValueError: an attribute has no such value.
    """

    model: nn.Module | None
    compare: str = "soft"
    weight: float = 1.0
    label_weight: float = 1.0
    temperature: float = 1.0
    after: float = 0.0
    img_size: int | None = None
    columns: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None

    def __post_init__(self) -> None:
        if self.compare not in ("soft", "hard", "tokens"):
            raise ValueError(f"compare={self.compare}: expected soft, hard or tokens")
        for name in ("weight", "label_weight", "temperature", "after"):
            value, least = getattr(self, name), 0 if name in ("label_weight", "after") else None
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not (value > 0 or value == least)
            ):
                bound = "above 0" if least is None else "of at least 0"
                raise ValueError(f"{name}={value}: expected a number {bound}")
        if self.after >= 1 or (self.after and self.model is not None):
            raise ValueError(
                f"after={self.after}: expected a share of the epochs below 1, with model: {AVERAGE}"
            )
        if self.temperature != 1 and self.compare != "soft":
            raise ValueError(f"temperature={self.temperature}: goes with compare: soft")
        if self.compare == "tokens" and self.model is None:
            raise ValueError(f"compare=tokens: expected another model, not {AVERAGE}")

    def to(self, device: torch.device) -> Teacher:
        """Move to a device."""
        if self.model is not None:
            self.model.to(device)
        for name in ("columns", "scale", "shift"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value.to(device))
        return self

    @torch.no_grad()
    def outputs(self, model: nn.Module, images: Tensor) -> Tensor:
        """What the loss compares with: logits of the data's classes (B, C), or tokens (B, L, D)."""
        if self.scale is not None and self.shift is not None:
            each = (-1, *[1] * (images.dim() - 2))
            images = images * self.scale.view(each) + self.shift.view(each)
        if self.img_size is not None:
            size = (self.img_size, self.img_size)
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        if self.compare == "tokens":
            return model.forward_features(images)  # type: ignore[operator]
        scores = model(images)
        return scores if self.columns is None else scores[:, self.columns]

    def loss(self, compared: Tensor, given: Tensor) -> Tensor:
        """The loss of the student's output, in float32.

        Raises:
            UsageError: it has another shape than the teacher's.
        """
        if compared.shape != given.shape:
            raise UsageError(
                f"teacher.compare={self.compare}: the model's output is {tuple(compared.shape)}, the teacher's "
                f"{tuple(given.shape)}; expected the same shape (tokens of another width: model.distill_dim)"
            )
        given = given.float()
        if self.compare == "tokens":
            return token_loss(compared, given)
        if self.compare == "hard":
            return hard_loss(compared, given)
        return soft_loss(compared, given, self.temperature)


def taught_loss(state: State, images: Given, output: Any, targets: Tensor) -> Tensor:
    """The loss of a micro-batch: the task's, and the teacher's if the run has one.

    Args:
        state: The run.
        images: (B, C, H, W), as the model was given them; without a teacher also several.
        output: The model's, in float32. The second of a pair is compared with the teacher.
        targets: (B, ...).
    """
    own, compared = output if isinstance(output, tuple) else (output, output)
    loss, teacher = state.criterion(own, targets), state.teacher
    if teacher is None or state.epoch < teacher.after * state.epochs:
        return loss
    assert isinstance(images, Tensor)
    with state.autocast():
        given = teacher.outputs(state.averaged if teacher.model is None else teacher.model, images)
    return teacher.label_weight * loss + teacher.weight * teacher.loss(compared, given)


def build_teacher(cfg: dict[str, Any], data: Splits, task: Task) -> Teacher:
    """The teacher that ``teacher`` describes: ``model`` is ``ema`` or as the group ``model``, the rest are attributes.

    Raises:
        UsageError: the task takes none, the model has no weights or other classes, or an attribute is wrong.
    """
    asked = cfg["teacher"]
    if not task.taught:
        raise UsageError(f"teacher={asked}: task={task.name} takes none; expected null")
    options = dict(asked) if isinstance(asked, Mapping) else {"model": asked}
    model = options.pop("model", None)
    fitted: dict[str, Any] = {}
    if strange := sorted(set(options) - set(SETTINGS)):
        raise UsageError(f"teacher.{strange[0]}: expected one of model, {', '.join(SETTINGS)}")
    if model == AVERAGE:
        if not cfg["run"]["ema"]:
            raise UsageError(f"teacher.model={AVERAGE}: expected run.ema, which is null")
        built = None
    elif isinstance(model, Mapping) and model.get("model_name"):
        built, fitted = _model(cfg, dict(model), options, data, task)
    else:
        raise UsageError(
            f"teacher.model={model}: expected {AVERAGE}, or model_name with pretrained: true or start: FILE"
        )
    try:
        return Teacher(built, **options, **fitted)
    except ValueError as error:
        raise UsageError(f"teacher {asked}: {error}") from error


def _model(
    cfg: dict[str, Any], model: dict[str, Any], options: Mapping[str, Any], data: Splits, task: Task
) -> tuple[nn.Module, dict[str, Any]]:
    """The teacher's model, and the attributes that fit its classes and pixels to those of the data."""
    name, size = model["model_name"], options.get("img_size")
    if not (model.get("start") or model.get("pretrained")):
        raise UsageError(f"teacher.model {name}: has no weights; expected pretrained: true or start: FILE")
    fitted: dict[str, Any] = {}
    seen = data
    if size is not None:
        if data.frames is not None or not isinstance(size, int) or size < 1:
            raise UsageError(f"teacher.img_size={size}: expected a number of pixels, and null for clips")
        seen = replace(data, input_size=(data.input_size[0], size, size))
    if options.get("compare") != "tokens":
        numbered = published_data(seen, model)
        if numbered is not seen:
            fitted["columns"] = torch.tensor(numbered.train.numbers)  # type: ignore[attr-defined]
        seen, model = numbered, evaluated(model, numbered)
    built = task.build_judged({**cfg, "model": model}, seen).eval().requires_grad_(False)
    facts = getattr(built, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(facts.get(key) or getattr(data, key)) for key in ("mean", "std"))
    own_mean, own_std = torch.tensor(data.mean), torch.tensor(data.std)
    if len(mean) == len(own_mean) and not (torch.equal(mean, own_mean) and torch.equal(std, own_std)):
        fitted |= {"scale": own_std / std, "shift": (own_mean - mean) / std}
    return built, fitted
