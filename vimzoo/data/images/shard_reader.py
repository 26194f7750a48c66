"""Random access to samples of WebDataset shards, on disk or on a server with a local cache."""

from __future__ import annotations

import hashlib
import io
import os
import random
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path

import numpy as np

from vimzoo.errors import UsageError

from .cache import Kept, KeptParts
from .remote import THREADS, Fetched, Range, Remote
from .tar_index import BLOCK, TarIndex, header_sum, read_index


class ShardChanged(RuntimeError):
    """A shard has changed since its headers were read; not an unreadable image, so it ends the run."""


class ShardReader:
    """A timm reader of tar files with ``KEY.jpg`` (or another image) beside ``KEY.cls``, a class number.

    The places of all samples are read once from the headers; an image is then one seek and one read.

    Args:
        shards: uncompressed tar files.

    Attributes:
        shards: these. indices: of their samples, one for each. starts: the number of samples before each shard, and of
            all.

    Raises:
        UsageError: a shard is damaged or cannot be used.
    """

    def __init__(self, shards: Sequence[Path | str]) -> None:
        self.shards = [str(shard) for shard in shards]
        self.indices = self._indices()
        self.starts = np.cumsum([0, *map(len, self.indices)])
        self.class_to_idx = {str(number): number for number in sorted(set(self.numbers()))}

    def _indices(self) -> list[TarIndex]:
        indices = []
        for shard in self.shards:
            try:
                with open(shard, "rb") as file:
                    indices.append(read_index(file, shard))
            except OSError as error:
                raise UsageError(f"`root`: {shard}: cannot be read ({error})") from error
        return indices

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        shard, place = self._place(index)
        return io.BytesIO(self.content(index)), int(self.indices[shard].numbers[place])

    def content(self, index: int) -> bytes:
        """The image file of a sample.

        Raises:
            ShardChanged: the shard has been removed or replaced since the start.
        """
        try:
            return self._block(index)[BLOCK:]
        except FileNotFoundError as error:
            raise ShardChanged(f"{self.filename(index)}: its shard is gone ({error})") from error

    def _block(self, index: int) -> bytes:
        """Header and image of a sample."""
        shard, place = self._place(index)
        part = self.indices[shard]
        with open(self.shards[shard], "rb") as file:
            file.seek(part.offsets[place] - BLOCK)
            block = file.read(BLOCK + int(part.sizes[place]))
        self._check(index, block)
        return block

    def _check(self, index: int, block: bytes) -> None:
        shard, place = self._place(index)
        part = self.indices[shard]
        if len(block) != BLOCK + part.sizes[place] or header_sum(block[:BLOCK]) != part.sums[place]:
            raise ShardChanged(
                f"{self.shards[shard]} has changed since it was opened: {part.keys[place]} is not where it was; "
                "expected shards that stay as they are during a run"
            )

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of a sample, and its index there."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def numbers(self) -> list[int]:
        """Class numbers."""
        return [number for index in self.indices for number in index.numbers.tolist()]

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """``SHARD/KEY``."""
        shard, place = self._place(index)
        return f"{self.shards[shard]}/{self.indices[shard].keys[place]}"

    def digest(self) -> bytes:
        """A hash of the shards' names without folders, and of the keys, places, sizes and classes of all samples."""
        total = hashlib.blake2b(digest_size=16)
        for shard, index in zip(self.shards, self.indices, strict=True):
            for text in (os.path.basename(shard), *index.keys):
                total.update(text.encode(errors="surrogateescape") + b"\0")
            for numbers in (index.offsets, index.sizes, index.numbers):
                total.update(numbers.astype("<i8").tobytes())
        return total.digest()


class RemoteShards(ShardReader):
    """Shards below a URL: headers are read once, then each batch of images by as many requests at once.

    Args:
        remote: where the shards are. names: relative to it.
        cache: folder that keeps headers and images; None keeps nothing.

    Raises:
        UsageError: as `ShardReader`. FileNotFoundError, Unreachable: as `Remote.read`.
    """

    def __init__(self, remote: Remote, names: Sequence[str], cache: Path | None = None) -> None:
        self.remote, self.names, self.cache = remote, list(names), cache
        self.infos = remote.infos(names)
        super().__init__([f"{remote.url}/{name}" for name in names])
        kept = None
        if cache is not None:
            versions = repr((remote.url, self.infos)).encode() + self.digest()
            name = hashlib.blake2b(versions, digest_size=16).hexdigest()
            sizes = np.concatenate([BLOCK + index.sizes for index in self.indices])
            kept = KeptParts(cache / "shards" / name, sizes)
        self.fetched = Fetched(remote, self._range, kept, self._check)

    def ahead(self, indices: Sequence[int]) -> None:
        """Prefetch samples."""
        self.fetched.ahead(indices)

    def _block(self, index: int) -> bytes:
        return self.fetched[index]

    def _range(self, index: int) -> Range:
        shard, place = self._place(index)
        offset, size = (int(x[place]) for x in (self.indices[shard].offsets, self.indices[shard].sizes))
        return self.names[shard], offset - BLOCK, offset + size

    def _indices(self) -> list[TarIndex]:
        # In an order of its own, so that processes with one cache share the work
        order = random.SystemRandom().sample(range(len(self.names)), len(self.names))
        with ThreadPoolExecutor(THREADS) as pool:
            return [
                index
                for _, index in sorted(
                    zip(order, pool.map(self._index, order), strict=True), key=itemgetter(0)
                )
            ]

    def _index(self, shard: int) -> TarIndex:
        size, version = self.infos[shard]
        kept = None if self.cache is None else Kept(self.cache / "headers")
        name = f"{self.shards[shard]} {size} {version}"
        if kept is not None and (index := _unpacked(kept.get(name))) is not None:
            return index
        with self.remote.open(self.names[shard], size) as file:
            index = read_index(file, self.shards[shard])
        if kept is not None:
            kept.put(name, _packed(index))
        return index


def _packed(index: TarIndex) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file,
        keys=np.frombuffer("\0".join(index.keys).encode(errors="surrogateescape"), dtype=np.uint8),
        offsets=index.offsets,
        sizes=index.sizes,
        numbers=index.numbers,
        sums=index.sums,
    )
    return file.getvalue()


def _unpacked(content: bytes | None) -> TarIndex | None:
    """What `_packed` has packed; None of anything else, such as what a full disk has left."""
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            keys = arrays["keys"].tobytes().decode(errors="surrogateescape").split("\0")
            return TarIndex(tuple(keys), *(arrays[name] for name in ("offsets", "sizes", "numbers", "sums")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
