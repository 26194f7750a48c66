"""Volumes in NIfTI files, read slice by slice; a slice has a path like a file: ``liver.nii.gz/axial-0012``.

Whatever the order and signs of a file's axes, slices are seen as radiologists see them: axial ones from the front to
the back and from the patient's right to the left, coronal ones from the top down, sagittal ones from the front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vimzoo.errors import UsageError
from vimzoo.files import unfinished

__all__ = [
    "PLANES",
    "VOLUME_SUFFIXES",
    "Grid",
    "Slice",
    "check_same_grid",
    "cut",
    "grid_of",
    "is_volume",
    "labels_of",
    "pixels_of",
    "save_labels",
    "slice_of",
    "slices_of",
]

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Name of a plane -> the axis across it, of left-right, anterior-posterior and inferior-superior."""
VOLUME_SUFFIXES = (".nii", ".gz")
"""Last suffixes of NIfTI files; of ``.gz`` only ``.nii.gz``."""
SEEN_AS = ("L", "P", "I")
"""Where the axes of an array go here, in nibabel's letters."""
AFFINE_TOLERANCE = 1e-3  # mm
LABEL_TOLERANCE = 1e-3  # scaled integers miss whole numbers by rounding
SHARES = (0.5, 99.5)  # percentiles that become black and white
_LEAF = re.compile(rf"({'|'.join(PLANES)})-(\d+)$")


class Slice(NamedTuple):
    """Which slice of which file a path means."""

    volume: Path
    plane: str
    number: int


@dataclass(frozen=True)
class Grid:
    """Where the elements of a volume are.

    Attributes:
        shape: Elements along left-right, anterior-posterior and inferior-superior.
        spacing: Their distances, in mm.
        affine: (4, 4): from places in the file's array to mm.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    affine: np.ndarray

    def spacing_of(self, plane: str) -> tuple[float, float, float]:
        """Distances of slices, of their rows and of their columns, in mm."""
        axis = PLANES[plane]
        columns, rows = (side for place, side in enumerate(self.spacing) if place != axis)
        return self.spacing[axis], rows, columns


def is_volume(path: Path) -> bool:
    """Whether a file is a volume, by its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def slice_of(path: Path) -> Slice | None:
    """The slice that a path means; None if it is a file's."""
    match = _LEAF.fullmatch(path.name)
    if match is None or not is_volume(path.parent):
        return None
    return Slice(path.parent, match[1], int(match[2]))


def slices_of(path: Path, plane: str) -> list[Path]:
    """A path for every slice of a volume.

    Raises:
        UsageError: see `grid_of`.
    """
    return [path / f"{plane}-{number:04}" for number in range(grid_of(path).shape[PLANES[plane]])]


def cut(volume: np.ndarray, plane: str, number: int) -> np.ndarray:
    """A slice (H, W) of a volume from `labels_of` or `pixels_of`."""
    return volume.take(number, axis=PLANES[plane]).T


def grid_of(path: Path) -> Grid:
    """Shape, spacing and affine matrix from the file's header.

    Raises:
        UsageError: it is no volume of three axes, or nibabel is missing.
    """
    return _grid(_opened(path))


def _grid(image: Any) -> Grid:
    orientations = _nibabel().orientations
    order = orientations.io_orientation(image.affine)
    shape, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
    sizes = _nibabel().affines.voxel_sizes(image.affine)
    for place, (axis, _) in enumerate(order):
        shape[int(axis)], spacing[int(axis)] = int(image.shape[place]), float(sizes[place])
    return Grid((shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2]), image.affine)


def check_same_grid(image: Path, mask: Path) -> None:
    """Check that an image and its mask have one shape and one affine matrix.

    Raises:
        UsageError: they differ.
    """
    first, second = _opened(image), _opened(mask)
    if first.shape[:3] != second.shape[:3]:
        raise UsageError(f"{mask}: shape {second.shape[:3]}; expected {first.shape[:3]} as {image}")
    off = float(np.abs(first.affine - second.affine).max())
    if not off <= AFFINE_TOLERANCE:
        raise UsageError(
            f"{mask}: its affine matrix differs by up to {off:.4g} from that of {image}; expected the same grid"
        )


def labels_of(path: Path) -> np.ndarray:
    """Labels of a volume as whole numbers, with the axes of `Grid`.

    A scale in the header, which some programs copy from the scan, is undone by rounding.

    Raises:
        UsageError: it holds fractions, or cannot be read.
    """
    values = _values(path)
    if values.dtype.kind == "f":
        whole = np.rint(values)
        off = np.abs(values - whole)
        if not (off <= LABEL_TOLERANCE).all():
            raise UsageError(
                f"{path}: fractions such as {values.ravel()[np.nanargmax(off)]}; expected class numbers"
            )
        values = whole.astype(np.int64)
    return values.astype(np.int32)


def pixels_of(path: Path, window: Sequence[float] | None = None) -> np.ndarray:
    """Intensities of a volume as uint8, with the axes of `Grid`.

    Args:
        path: The file.
        window: Intensities that become 0 and 255, in the file's unit (such as -160 and 240 of a CT); None takes the
            percentiles 0.5 and 99.5 of the volume.

    Raises:
        UsageError: the file cannot be read.
    """
    values = _values(path).astype(np.float32)
    values = np.nan_to_num(values)
    low, high = np.percentile(values, SHARES) if window is None else window
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return scaled.clip(0, 255).round().astype(np.uint8)


def save_labels(labels: np.ndarray, like: Path, path: Path) -> None:
    """Write labels with the axes of `Grid` as a NIfTI file, on the grid of the file ``like``."""
    nibabel, source = _nibabel(), _opened(like)
    orientations = nibabel.orientations
    back = orientations.ornt_transform(
        orientations.axcodes2ornt(SEEN_AS), orientations.io_orientation(source.affine)
    )
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    image = type(source)(orientations.apply_orientation(labels, back).astype(kind), source.affine)
    for name in ("qform", "sform"):
        matrix, code = getattr(source, f"get_{name}")(coded=True)
        getattr(image, f"set_{name}")(matrix, int(code))
    image.header.set_xyzt_units(*source.header.get_xyzt_units())
    with unfinished(path) as part:
        part.write_bytes(_packed(image.to_bytes(), path))


def _packed(content: bytes, path: Path) -> bytes:
    import gzip

    return gzip.compress(content, 6, mtime=0) if path.suffix.lower() == ".gz" else content


def _values(path: Path) -> np.ndarray:
    """The array as its header says, with the axes of `Grid`."""
    orientations, image = _nibabel().orientations, _opened(path)
    try:
        values = np.asanyarray(image.dataobj)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: not a readable volume ({error})") from error
    if values.dtype.kind not in "iufb":
        raise UsageError(f"{path}: values of type {values.dtype}; expected numbers")
    there = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt(SEEN_AS)
    )
    return orientations.apply_orientation(values.reshape(image.shape[:3]), there)


def _opened(path: Path) -> Any:
    try:
        image: Any = _nibabel().load(path)
    except (OSError, ValueError, EOFError, _nibabel().filebasedimages.ImageFileError) as error:
        raise UsageError(f"{path}: not a readable volume ({error})") from error
    if len(image.shape) < 3 or any(side != 1 for side in image.shape[3:]) or 0 in image.shape:
        raise UsageError(f"{path}: an array of shape {image.shape}; expected a volume of three axes")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-12:
        raise UsageError(f"{path}: an affine matrix that is not invertible; expected one with three axes")
    return image


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise UsageError("volumes need nibabel; pip install 'vimzoo[nifti]'") from error
    return nibabel
