"""Classes of unequal size: balanced sampling and weights of classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy
from torch import nn
from trainer_helpers import composed, make_images, small

from vimzoo.data import EpochBatches, bundled_digits, image_folder, train_loader
from vimzoo.engine import launch
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError

LABELS = np.repeat([0, 1, 2], [70, 20, 10])


def test_classes_come_equally_often_and_no_key_twice() -> None:
    batches = EpochBatches(100, 10, seed=0, labels=LABELS)
    epochs = []
    for epoch in (0, 1):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch]
        assert len(keys) == len(set(keys)) == 100
        counts = np.bincount(LABELS[[key[1] for key in keys]])
        assert sorted(counts.tolist()) == [32, 34, 34] or sorted(counts.tolist()) == [33, 33, 34]
        small_class = np.bincount([key[1] for key in keys], minlength=100)[90:]
        assert set(small_class.tolist()) <= {2, 3, 4}
        epochs.append(keys)
    assert [key[1:] for key in epochs[0]] != [key[1:] for key in epochs[1]]


def test_processes_share_a_balanced_batch() -> None:
    alone = list(EpochBatches(100, 10, seed=0, labels=LABELS))
    parts = [list(EpochBatches(100, 10, seed=0, rank=rank, world=2, labels=LABELS)) for rank in range(2)]
    assert alone == [a + b for a, b in zip(*parts, strict=True)]


def test_labels_are_those_of_the_training_images(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"a": 30, "b": 6})
    data = image_folder(str(root), img_size=16)
    assert data.labels.tolist() == [data.train[0, i][1] for i in range(len(data.train))]
    seen = [int(label) for _, labels in train_loader(data, 6, 0, balanced=True) for label in labels]
    assert abs(seen.count(0) - seen.count(1)) <= 6
    with pytest.raises(UsageError, match=r"`balanced`: expected "):
        train_loader(image_folder(str(root), img_size=32, sides=[32]), 6, 0, balanced=True)


def test_weights_multiply_the_loss_of_their_class() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(8, 3), torch.randint(3, (8,))
    same = classification.WeightedCrossEntropy(torch.ones(3), 0.1)(output, target)
    torch.testing.assert_close(same, LabelSmoothingCrossEntropy(0.1)(output, target))
    weights = torch.tensor([1.0, 2.0, 5.0])
    each = nn.CrossEntropyLoss(weight=weights, reduction="none")(output, target)
    loss = classification.WeightedCrossEntropy(weights, 0.0)
    torch.testing.assert_close(loss(output, target), each.mean())
    torch.testing.assert_close(loss(output, nn.functional.one_hot(target, 3).float()), each.mean())
    halves = [loss(output[half], target[half]) for half in (slice(4), slice(4, 8))]
    torch.testing.assert_close(sum(halves) / 2, each.mean())


def test_balanced_weights_give_all_classes_the_same_sum(tmp_path: Path) -> None:
    data = image_folder(str(make_images(tmp_path, {"a": 30, "b": 6})), img_size=16)
    counts = torch.tensor(np.bincount(data.labels))
    sums = classification.class_weights("balanced", data) * counts
    torch.testing.assert_close(sums, torch.full((2,), len(data.train) / 2))
    by_name = classification.class_weights({"b": 3}, data)
    assert by_name[1] / by_name[0] == pytest.approx(3)
    for wrong in ({"c": 1}, "even", [1, 2]):
        with pytest.raises(
            UsageError, match=r"expected balanced, or weights by class name: 2 classes \(a, b\)"
        ):
            classification.class_weights(wrong, data)


def test_a_run_takes_both(tmp_path: Path) -> None:
    words = ["data.balanced=true", "loss={name: cross_entropy, class_weights: {3: 2.0}}"]
    launch(small(*words), tmp_path)
    assert (tmp_path / "metrics.json").exists()
    cfg = composed("loss={name: bce, class_weights: balanced}")
    with pytest.raises(UsageError, match=r"class_weights go with cross_entropy"):
        classification.build_loss(cfg, bundled_digits())
    with pytest.raises(UsageError, match=r"takes cross_entropy or bce"):
        classification.build_loss(composed("loss={name: cross_entropy, weight: 1}"), bundled_digits())
