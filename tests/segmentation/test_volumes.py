"""Volumes in NIfTI files: planes by name, labels and grids as they are, scores of whole volumes in mm."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import timm
import torch

from vimzoo import predict
from vimzoo.data import UsageError, mask_folder
from vimzoo.data.masks.volumes import cut, grid_of, labels_of, pixels_of, save_labels, slice_of, slices_of
from vimzoo.engine.tasks.segmentation import Scores, details, scores_of
from vimzoo.models.weights.saving import save_for_hf
from vimzoo.segmentation import surface_scores

SPACING = (0.8, 0.9, 2.5)  # left-right, anterior-posterior, inferior-superior
SHAPE = (20, 24, 6)
ORDERS = ("RAS", "LPS", "SAR", "PIL")


def grid(codes: str) -> tuple[list[int], np.ndarray]:
    """Axes of an array in this orientation, of one that is LPI, and its affine matrix."""
    axes = ["LR", "PA", "IS"]
    order = [next(i for i, pair in enumerate(axes) if code in pair) for code in codes]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for place, (axis, code) in enumerate(zip(order, codes, strict=True)):
        affine[axis, place] = SPACING[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = 11, -7, 30
    return order, affine


def write(path: Path, lpi: np.ndarray, codes: str = "RAS", kind: Any = np.int16) -> None:
    """An array with axes to the left, back and down as a file of another orientation."""
    order, affine = grid(codes)
    flips = tuple(slice(None, None, 1 if code in "LPI" else -1) for code in codes)
    nibabel.save(nibabel.Nifti1Image(lpi.transpose(order)[flips].astype(kind), affine), path)


def box(shift: int = 0) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[4 + shift : 12 + shift, 6:18, 1:5] = 1
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of four patients in nnU-Net's layout, each with its own order of axes."""
    root = tmp_path_factory.mktemp("volumes")
    for kind in ("imagesTr", "labelsTr"):
        (root / kind).mkdir()
    for number, codes in enumerate(ORDERS):
        labels = box(number)
        write(root / "imagesTr" / f"p{number}_0000.nii.gz", labels * 800 - 300, codes)
        write(root / "labelsTr" / f"p{number}.nii.gz", labels, codes, np.uint8)
    return root


@pytest.mark.parametrize("codes", ORDERS)
def test_slices_are_alike_whatever_the_order_of_axes(codes: str, tmp_path: Path) -> None:
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 1000
    write(tmp_path / "a.nii", labels, codes)
    found = labels_of(tmp_path / "a.nii")
    assert np.array_equal(found, labels) and grid_of(tmp_path / "a.nii").shape == SHAPE
    assert grid_of(tmp_path / "a.nii").spacing == pytest.approx(SPACING)
    assert np.array_equal(cut(found, "axial", 2), labels[:, :, 2].T)  # rows to the back, columns to the left
    assert np.array_equal(cut(found, "coronal", 3), labels[:, 3].T)  # rows down
    assert grid_of(tmp_path / "a.nii").spacing_of("axial") == pytest.approx((2.5, 0.9, 0.8))
    assert grid_of(tmp_path / "a.nii").spacing_of("sagittal") == pytest.approx((0.8, 2.5, 0.9))
    save_labels(found, tmp_path / "a.nii", tmp_path / "b.nii.gz")
    first, second = nibabel.load(tmp_path / "a.nii"), nibabel.load(tmp_path / "b.nii.gz")
    assert np.array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    assert np.array_equal(first.affine, second.affine) and second.get_data_dtype() == np.uint16
    assert second.header.get_zooms() == first.header.get_zooms()
    paths = slices_of(tmp_path / "a.nii", "coronal")
    assert len(paths) == 24 and slice_of(paths[7]) == (tmp_path / "a.nii", "coronal", 7)


def test_labels_with_a_scale_keep_their_numbers(tmp_path: Path) -> None:
    """A float array that is stored as int16 comes back with errors of rounding."""
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 7
    image = nibabel.Nifti1Image(labels.astype(np.float64), np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    stored = nibabel.load(tmp_path / "a.nii")
    assert not np.array_equal(np.asarray(stored.dataobj).astype(int), labels)
    assert np.array_equal(np.sort(np.unique(labels_of(tmp_path / "a.nii"))), np.arange(7))
    write(tmp_path / "b.nii", labels / 2, kind=np.float32)
    with pytest.raises(UsageError, match=r"b\.nii: fractions such as .*; expected class numbers"):
        labels_of(tmp_path / "b.nii")


def test_intensities_of_a_window(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", np.linspace(-1000, 1000, np.prod(SHAPE)).reshape(SHAPE), kind=np.float32)
    values = pixels_of(tmp_path / "a.nii", (-160, 240))
    assert values.dtype == np.uint8 and (values == 0).mean() == pytest.approx(0.42, abs=0.002)
    assert (pixels_of(tmp_path / "a.nii") == 0).mean() == pytest.approx(0.005, abs=0.003)


def test_a_folder_of_volumes(folder: Path) -> None:
    data = mask_folder(folder, img_size=16, in_chans=1, val_fraction=0.25, test_fraction=0.25)
    held: Any = data.val
    assert len(data.train) + len(data.val) + len(data.test) == 4 * 6  # type: ignore[arg-type]
    assert len(data.train) % 6 == len(data.val) % 6 == 0  # all slices of a patient are in one part
    assert all(case.spacing == pytest.approx((2.5, 0.9, 0.8)) for case in held.cases)
    image, mask = held[2]
    assert image.shape == (1, 16, 16) and mask.shape == (24, 20) and mask.sum() == 8 * 12
    assert held.names[2].endswith(".nii.gz/axial-0002")
    image, mask = data.train[0, 2]
    assert image.shape == (1, 16, 16) and set(mask.unique().tolist()) <= {0, 1, 255}
    other = mask_folder(folder, img_size=16, plane="sagittal", test_fraction=1.0, window=(-300, 500))
    assert len(other.val) == 4 * 20 and other.val[8][1].shape == (6, 24)
    assert other.val[8][0].min() < -1 and other.val[8][0].max() > 2


def test_volumes_are_scored_whole(folder: Path, tmp_path: Path) -> None:
    """Distances are in mm, and a class that a slice lacks counts for nothing."""
    data = mask_folder(folder, img_size=16, in_chans=1, test_fraction=1.0)
    scores = scores_of(data, data.test, distances=True)
    assert data.test is not None
    for place in range(len(data.test)):
        mask = data.test[place][1]
        moved = mask.roll(2, dims=1)  # to the left by 1.6 mm
        scores.add(torch.nn.functional.one_hot(moved, 2).permute(2, 0, 1)[None].float(), mask[None])
    found = scores.summary()
    assert found["hd95_pooled_mm"] == pytest.approx(1.6) and found["hd95_missing"] == 0
    assert found["dice_per_image"] == pytest.approx(75.0)
    details(scores, data, tmp_path)
    rows = list(csv.DictReader((tmp_path / "images.csv").open()))
    assert {row["image"] for row in rows} == {f"p{number}_0000.nii.gz" for number in range(4)}
    want = surface_scores(np.roll(box(), 2, 0) > 0, box() > 0, SPACING)
    boxes = [row for row in rows if row["class"] == "1"]
    assert [float(row["mean_mm"]) for row in boxes] == pytest.approx([want.mean] * 4, abs=1e-4)


def test_pixels_of_plain_images_have_sides_in_mm() -> None:
    truth = torch.zeros(1, 64, 64, dtype=torch.long)
    truth[:, 16:48, 16:48] = 1
    moved = torch.nn.functional.one_hot(truth.roll(4, dims=2), 2).permute(0, 3, 1, 2).float()
    for spacing, name, want in ((None, "hd95_pooled_px", 4), ((1.0, 2.0), "hd95_pooled_mm", 8)):
        scores = Scores(2, distances=True, spacing=spacing)
        scores.add(moved, truth)
        assert scores.summary()[name] == want


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plane": "oblique"}, r"`plane`=oblique: expected one of sagittal, coronal, axial"),
        ({"window": (3, 1)}, r"`window`=\(3, 1\): expected two intensities, the lower one first"),
        ({"spacing": (1, 0)}, r"`spacing`=\(1, 0\): expected height and width of a pixel in mm"),
        ({"spacing": (1, 1)}, r"`spacing`=\(1, 1\): expected none with volumes"),
        ({"colours": [[0, 0, 0], [1, 1, 1]]}, r"labelsTr/p\d\.nii\.gz: holds numbers; `colours` needs"),
    ],
)
def test_refused_options(change: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=message):
        mask_folder(folder, img_size=16, **change)


def test_refused_volumes(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(4):
        write(tmp_path / "images" / f"{number}.nii", box())
        write(tmp_path / "masks" / f"{number}.nii", box())
    assert len(mask_folder(tmp_path).classes) == 2
    write(tmp_path / "masks" / "2.nii", box(), "LPS")
    with pytest.raises(
        UsageError, match=r"2\.nii: its affine matrix differs by up to .* expected the same grid"
    ):
        mask_folder(tmp_path)
    write(tmp_path / "masks" / "2.nii", box()[:-1])
    with pytest.raises(UsageError, match=r"2\.nii: shape \(19, 24, 6\); expected \(20, 24, 6\) as"):
        mask_folder(tmp_path)
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "masks" / "2.nii"
    )
    with pytest.raises(UsageError, match=r"2\.nii: an array of shape \(4, 4, 4, 2\); expected a volume"):
        mask_folder(tmp_path)
    (tmp_path / "masks" / "2.nii").write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"2\.nii: not a readable volume"):
        mask_folder(tmp_path)


def test_predicted_volumes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = timm.create_model("test_vm_unet", in_chans=1, num_classes=2, repeat_grey=False).eval()
    cfg = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "label_names": ["back", "box"]}
    model.pretrained_cfg = {**model.pretrained_cfg, **cfg}
    save_for_hf(model, tmp_path / "model", model_args={"in_chans": 1, "num_classes": 2, "repeat_grey": False})
    words = [
        str(folder / "imagesTr"),
        "--model",
        str(tmp_path / "model"),
        "--masks",
        str(tmp_path / "out"),
        "--json",
    ]
    assert predict.main(words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(row["mask"]).name for row in rows] == [f"p{number}_0000.nii.gz" for number in range(4)]
    for row in rows:
        image, mask = nibabel.load(row["file"]), nibabel.load(row["mask"])
        assert image.shape == mask.shape and np.array_equal(image.affine, mask.affine)
        assert mask.get_data_dtype() == np.uint8 and set(np.unique(mask.dataobj)) <= {0, 1}
    assert predict.main([*words, "--window", "5", "1"]) == 2
    assert "--window 5.0 1.0: expected the lower one first" in capsys.readouterr().err
