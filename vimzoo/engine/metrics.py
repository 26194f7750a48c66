"""Running sums for classification."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Scores:
    """Sums over batches; they stay on the device until ``summary`` asks for numbers."""

    loss: Tensor | float = 0.0
    top1: Tensor | float = 0.0
    top5: Tensor | float = 0.0
    count: int = 0
    predictions: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count one batch: logits (B, C), class numbers (B,)."""
        logits = logits.float()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = ranked == targets[:, None]
        self.loss = self.loss + F.cross_entropy(logits, targets, reduction="sum")
        self.top1 = self.top1 + hits[:, 0].sum()
        self.top5 = self.top5 + hits.sum()
        self.count += len(targets)
        self.predictions.append(ranked[:, 0])
        self.targets.append(targets)

    def summary(self) -> dict[str, float]:
        """Mean cross-entropy; percentage of images whose class is ranked first, or among the first five."""
        return {
            "loss": float(self.loss) / self.count,
            "top1": 100 * float(self.top1) / self.count,
            "top5": 100 * float(self.top5) / self.count,
        }

    def confusion(self, classes: int) -> Tensor:
        """Counts (C, C): rows are true classes, columns predicted ones."""
        pairs = torch.cat(self.targets) * classes + torch.cat(self.predictions)
        return pairs.bincount(minlength=classes * classes).view(classes, classes)
