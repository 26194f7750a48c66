"""Applies a model to pictures of any size: tiles, alpha, self-ensemble, precision, out-of-memory handling."""

import functools
import gc
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vimzoo.errors import is_out_of_memory
from vimzoo.models.restoration_base import RestorationModel
from vimzoo.models.routes import routable, with_routes

from .batches import Steps, Tiles, run_alone
from .edges import continued, settle
from .memory import automatic_tile
from .passes import FLIPS, flipped, flipped_back, for_channels
from .tiling import Mosaic, Span, blended_axis, official_axis

__all__ = ["OVERLAP", "Restorer"]

OVERLAP = 32
"""Default overlap of neighbouring tiles in pixels."""
SMALLEST_TILE = 16
"""Tiles of this side are not halved further."""
WHITE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
PARTS = {1: [(0, 1)], 2: [(0, 1), (1, 2)], 3: [(0, 3)], 4: [(0, 3), (3, 4)]}
"""Number of channels -> groups that pass through the model together; the second group is alpha."""
_logger = logging.getLogger(__name__)

Progress = Callable[[float], None]
Grid = tuple[Sequence[Span], Sequence[Span]]


class Restorer:
    """Restores pictures of any size with one model.

        restore = Restorer(vimzoo.load_restoration("mambairv2_lightSR_x2.pth"), tile=256)
        restored = restore(pixels)  # (H, W, 3) uint8 -> (2H, 2W, 3) uint8

    A colour model gets a grey picture as three equal channels. A grey model, such as one for JPEG artefacts, gets the
    luma of a colour picture; the differences of the channels from luma are kept, and enlarged bicubically if the model
    enlarges. Alpha is restored separately, like a grey picture. What is fully transparent or opaque stays so, and the
    colours of fully transparent pixels are replaced by those of visible pixels nearby before the model sees them.

    Several threads may use one restorer, or restorers that share a model, without affecting each other's results.

    Args:
        model: A MambaIR model; it is moved to ``device`` and put into evaluation mode.
        tile: Side of the largest tile in input pixels; ``"auto"``: as large as the available memory allows, ``"none"``:
            the whole picture at once, ``"official"``: the papers' tiling.
        overlap: Overlap of neighbouring tiles in pixels, where they are blended; at most half a tile. None is 32, or
            half a tile if that is less.
        batch: Tiles per batch.
        self_ensemble: Average over the 8 flips and rotations of each tile, for 8 times the work.
        dtype: Precision of matrix products and convolutions: float32, bfloat16 or float16 (autocast). A model that
            enlarges keeps about 8 or 11 bits of a picture that has more, with a warning. A model that does not adds
            its result to the picture in float32.
        seed: Seed of MambaIRv2's random routes. Every tile has its own stream, which does not depend on other tiles.
        routing: MambaIRv2's ``"gumbel"`` (random) or ``"argmax"`` (the likeliest routes); None is the model's own.
        device: Target device; None is the model's.

    Attributes:
        scale: Output pixels per input pixel and axis.
        batch: Tiles per batch; lowered when memory runs out, before tiles are made smaller.

    Raises:
        ValueError: an argument has an invalid value, or the model holds NaN or infinite weights.
    """

    def __init__(
        self,
        model: RestorationModel,
        *,
        tile: int | str = "auto",
        overlap: int | None = None,
        batch: int = 1,
        self_ensemble: bool = False,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        routing: str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        _check_options(model, tile, overlap, batch, dtype)
        if routing is not None:
            routable(model, routing)
        weights = next(model.parameters(), torch.empty(0))  # an exported file has none
        self.device = weights.device if device is None else torch.device(device)
        self.model = model.to(self.device).eval()
        self.weight_dtype = weights.dtype
        self.scale = model.scale
        self.tile, self.batch = tile, batch
        self.overlap = OVERLAP if overlap is None else overlap
        self.self_ensemble = self_ensemble
        self.dtype = dtype
        self.seed = seed
        self.routing = routing
        self._limit: int | None = None  # larger tiles ran out of memory

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Restore one picture.

        Args:
            pixels: ``(H, W)`` or ``(H, W, channels)``, channels being grey, grey and alpha, RGB, or RGB and alpha;
                uint8, uint16, or float32 in 0..1.
            progress: Called with the completed share of the work, up to 1; starts again when memory runs out.

        Returns:
            An array of the same dtype with ``H scale`` rows and ``W scale`` columns; floats are not clipped to 0..1.

        Raises:
            ValueError: the array has another shape or dtype.
            FloatingPointError: the model returned NaN or infinity.
            RuntimeError, MemoryError: out of memory even with small tiles, or with tiles of a fixed size.
        """
        return run_alone(self.steps(pixels, progress), self.run)

    def steps(self, pixels: np.ndarray, progress: Progress | None = None) -> Steps[np.ndarray]:
        """Restore one picture as a generator, which asks for the model's answers; see `vimzoo.restoration.batches`.

        Its arguments, result and errors are those of a call.
        """
        planes = pixels[..., None] if pixels.ndim == 2 else pixels
        parts = _parts(self.model, planes)
        if planes.dtype != np.uint8 and (rounded := self._rounded_to()) is not None:
            _few_bits(rounded)
        height, width = planes.shape[:2]
        channels = self.model.out_chans or planes.shape[2]
        result = np.empty((height * self.scale, width * self.scale, channels), planes.dtype)
        done = False
        while not done:
            tile, batch = self._tile_for(height, width), self.batch
            try:
                grid = self._grid(height, width, tile)
                yield from self._restore(planes, result, parts, grid, batch, progress)
                done = True
            except Exception as error:
                self._lower(tile, batch, error)
            if not done:
                gc.collect()  # tensors that the error held are gone now
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        return result[..., 0] if pixels.ndim == 2 else result

    @torch.inference_mode()
    def run(self, asked: Tiles) -> Tensor:
        """The model's answer: float32 ``(B, C, h scale, w scale)`` on the CPU.

        Raises:
            FloatingPointError, RuntimeError, MemoryError: as in a call.
        """
        return self._run(asked.tiles, asked.places, part=asked.part, white=asked.white)

    def _rounded_to(self) -> torch.dtype | None:
        """The half precision to which whole results are rounded, if they are."""
        if self.weight_dtype != torch.float32:
            return self.weight_dtype
        # without an upsampler the model adds the picture to what it has computed, in float32
        upsampler: str = getattr(self.model, "upsampler", "")
        return self.dtype if upsampler and self.dtype != torch.float32 else None

    def _lower(self, tile: int, batch: int, error: Exception) -> None:
        """Lower the limits if memory has run out; raise the error if that is not so, or they cannot be lowered.

        Limits are never raised, so that threads which share a restorer cannot undo each other's.
        """
        fixed = self.tile in ("none", "official") or (batch == 1 and tile <= SMALLEST_TILE)
        if fixed or not is_out_of_memory(error):
            raise error
        if batch > 1:
            self.batch = min(self.batch, batch // 2)
        else:
            self._limit = min(self._limit or tile, tile // 2)
        _logger.warning(
            "out of memory with tiles of %d pixels; continuing with tiles of %d, %d at once",
            tile, min(tile, self._limit or tile), self.batch,
        )  # fmt: skip

    @functools.cached_property
    def _automatic(self) -> int:
        return self.model.usual_tile or automatic_tile(self.model, self.device, self.batch)

    def _tile_for(self, height: int, width: int) -> int:
        """The largest side of a tile for a picture, a multiple of ``multiple_of`` of the model."""
        multiple = self.model.multiple_of
        whole = -(-max(height, width) // multiple) * multiple
        if self.tile in ("none", "official"):
            return whole
        wanted = self._automatic if isinstance(self.tile, str) else self.tile
        return min(whole, wanted, self._limit or wanted) // multiple * multiple

    def _grid(self, height: int, width: int, tile: int) -> Grid:
        """The tiles' rows and columns for a picture."""
        if self.tile == "official":
            return official_axis(height, self.scale), official_axis(width, self.scale)
        overlap, multiple = min(self.overlap, tile // 2), self.model.multiple_of
        rows, columns = (blended_axis(size, tile, overlap, self.scale, multiple) for size in (height, width))
        return rows, columns

    def _restore(
        self,
        planes: np.ndarray,
        result: np.ndarray,
        parts: list[tuple[int, int]],
        grid: Grid,
        batch: int,
        progress: Progress | None,
    ) -> Steps[None]:
        """Fill ``result``: colour first, then alpha."""
        count = len(grid[0]) * len(grid[1])
        for i, (first, stop) in enumerate(parts):
            plane, target = planes[..., first:stop], result[..., first:stop]
            if i == 0 and len(parts) > 1:  # invisible colours must not bleed into visible ones
                plane = continued(plane, planes[..., -1] > 0)
            if i > 0 and (plane == plane[0, 0]).all():
                target[...] = plane[0, 0]  # opaque stays opaque
                continue
            mosaic = Mosaic(plane, *grid, self.scale, batch)
            top = done = 0
            for chunk in mosaic.chunks:
                answer = yield Tiles(mosaic.tiles(chunk), chunk, i, WHITE[planes.dtype])
                rows = mosaic.add(answer)
                if rows is not None:
                    target[top : top + rows.shape[1]] = _stored(rows, planes.dtype)
                    top += rows.shape[1]
                done += len(chunk)
                if progress is not None:
                    progress((i + done / count) / len(parts))
            if i > 0:
                settle(target, plane, self.scale)
        if progress is not None:
            progress(1.0)

    def _run(self, tiles: Tensor, places: list[tuple[int, int]], *, part: int, white: float) -> Tensor:
        """Tiles ``(B, C, h, w)`` as stored, and their positions -> float32 ``(B, C, h scale, w scale)`` on the CPU."""
        x = (tiles.float() / white).to(self.device, self.weight_dtype)
        turns = FLIPS if self.self_ensemble else 1
        result = self._flip(x, places, part, 0)
        for turn in range(1, turns):
            result += self._flip(x, places, part, turn)
        result = (result / turns).cpu()
        if not math.isfinite(
            result.sum(dtype=torch.float64).item()
        ):  # a third of the time of isfinite().all()
            hint = "; try bfloat16 or float32" if self.dtype == torch.float16 else ""
            raise FloatingPointError(f"the model returned NaN or infinity in {self.dtype}{hint}")
        return result

    def _flip(self, x: Tensor, places: list[tuple[int, int]], part: int, turn: int) -> Tensor:
        """Apply the model to images in one of the 8 flips and rotations, float32."""
        seeds = [(self.seed, part, turn, *place) for place in places]
        model = with_routes(self.model, seeds, self.device, self.routing)
        run = for_channels(model, x.shape[1], self.model.in_chans, self.scale)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            y = run(flipped(x, turn))
        return flipped_back(y.float(), turn)


@functools.cache  # says it once
def _few_bits(dtype: torch.dtype) -> None:
    bits = 1 - round(math.log2(torch.finfo(dtype).eps))
    _logger.warning("%s keeps about %d bits of a picture that has more; float32 keeps all", dtype, bits)


def _stored(rows: Tensor, dtype: np.dtype) -> np.ndarray:
    """Float ``(C, rows, W)`` in 0..1 -> ``(rows, W, C)`` of ``dtype``, rounded to the nearest representable value."""
    values = rows.permute(1, 2, 0)
    if dtype == np.float32:
        return values.numpy()
    return (values.clamp(0, 1) * WHITE[dtype]).round_().numpy().astype(dtype)


def _parts(model: RestorationModel, planes: np.ndarray) -> list[tuple[int, int]]:
    """Channels that pass through the model together.

    Raises:
        ValueError: it does not take such pixels.
    """
    known = PARTS if model.out_chans is None else {model.in_chans: [(0, model.in_chans)]}
    if planes.ndim != 3 or planes.shape[2] not in known or 0 in planes.shape:
        raise ValueError(f"pixels: expected (H, W) or (H, W, 1 to 4), got {planes.shape}")
    if planes.dtype not in WHITE:
        raise ValueError(f"pixels: expected uint8, uint16 or float32, got {planes.dtype}")
    if planes.dtype == np.float32 and not np.isfinite(planes.sum(dtype=np.float64)):
        raise ValueError("pixels: expected finite numbers, got NaN or infinity")
    return known[planes.shape[2]]


def _check_options(
    model: RestorationModel, tile: int | str, overlap: int | None, batch: int, dtype: torch.dtype
) -> None:
    if not isinstance(model, RestorationModel):
        raise ValueError(f"model: expected a restoration model, got {type(model).__name__}")
    if model.out_chans is None and model.in_chans not in (1, 3):
        raise ValueError(f"model: expected one of 1 or 3 channels, got {model.in_chans}")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"model: {name} holds NaN or infinity; the weights are damaged")
    if isinstance(tile, str) and tile not in ("auto", "none", "official"):
        raise ValueError(f"tile: expected a number of pixels, 'auto', 'none' or 'official', got {tile!r}")
    if isinstance(tile, int) and tile < max(model.multiple_of, 2):
        raise ValueError(f"tile: expected at least {max(model.multiple_of, 2)} pixels, got {tile}")
    if tile == "official" and model.multiple_of > 1:
        raise ValueError(
            f"tile: {type(model).__name__} takes sides in multiples of {model.multiple_of}; "
            "its authors use no tiles; expected a number of pixels, 'auto' or 'none'"
        )
    if overlap is not None and (overlap < 0 or (isinstance(tile, int) and overlap > tile // 2)):
        raise ValueError(f"overlap: expected 0 to half a tile, got {overlap} with tile {tile}")
    if batch < 1:
        raise ValueError(f"batch: expected a positive number, got {batch}")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
