"""The record of a task: what a model is trained for, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from vimzoo.data import Images, Splits

Mixer = Callable[[Any, Tensor], tuple[Any, Tensor]]
"""(images, targets) -> a batch of mixed ones, such as timm's ``Mixup``."""


class Scores(Protocol):
    """Running sums over the batches of an evaluation."""

    def add(self, output: Tensor, target: Tensor) -> None:
        """Count one batch: model output (B, ...) and target (B, ...), on one device."""

    def sums(self) -> dict[str, Any]:
        """Attributes that are sums, by name: numbers, tensors or lists.

        Adding those of two objects gives the sums over both sets of images, which is how the processes of a
        distributed run combine theirs.
        """

    def summary(self) -> dict[str, float]:
        """Named means over all images: ``loss``, the task's score, and what else is worth a column."""


@dataclass(frozen=True)
class Task:
    """A kind of training, chosen by ``cfg["task"]``; `tasks.TASKS` lists all.

    Attributes:
        name: its key in ``TASKS``.
        score: the entry of ``Scores.summary()`` that chooses best.pt, higher is better.
        unit, digits, label: how that score is printed: ``accuracy 98.6 %``.
        own_data: (overrides, meaning) of a run on the user's own images, suggested after a run on others.
        files: name and meaning of what ``pictures`` writes.
        build_model: (cfg, data) -> model on the CPU, to be trained.
        build_judged: (cfg, data) -> model to be evaluated: a weight file has to match it completely.
        build_loss: (cfg, data) -> mixup or None, and the loss, called with (output in float32, target);
            the output is a list where a model has several of different resolutions.
        scores: data -> empty sums.
        pictures: (model, images, scores, data, out) writes ``files`` into the folder ``out``; ``model`` is in
            evaluation mode on its device, ``images`` the evaluated split and ``scores`` what was counted on it.
        details: (scores, data, out) -> further numbers of an evaluation; tables and pictures go into ``out``.
        targets: what it learns from: ``classes``, ``masks`` or ``images``, see `vimzoo.data.record.Source`.
        taught: whether models can learn from a `Teacher`, too.
        final_scores: ``scores`` of an evaluation after training, where these include what takes too long for every
            epoch; None: the same.
        as_measured: model on its device -> the model as published figures were measured (tiling), for ``vimzoo.eval``.
    """

    name: str
    score: str
    unit: str
    digits: int
    label: str
    own_data: tuple[str, str]
    files: Mapping[str, str]
    build_model: Callable[[dict[str, Any], Splits], nn.Module]
    build_judged: Callable[[dict[str, Any], Splits], nn.Module]
    build_loss: Callable[[dict[str, Any], Splits], tuple[Mixer | None, nn.Module]]
    scores: Callable[[Splits], Scores]
    pictures: Callable[[nn.Module, Images, Any, Splits, Path], None]
    details: Callable[[Any, Splits, Path], dict[str, Any]] = lambda scores, data, out: {}
    as_measured: Callable[[nn.Module], nn.Module] = lambda model: model
    targets: str = "classes"
    taught: bool = False
    final_scores: Callable[[Splits], Scores] | None = None

    def judge(self, data: Splits) -> Scores:
        """Empty sums of an evaluation after training."""
        return (self.final_scores or self.scores)(data)

    def text(self, value: float) -> str:
        """A score with its unit: ``98.6 %``."""
        return f"{value:.{self.digits}f} {self.unit}".rstrip()
