"""Predictions for the images below a URL, as Parquet files that say what has been done."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import nn

from vimzoo.data.images.remote import Remote
from vimzoo.errors import UsageError

__all__ = ["PredictionFolder", "model_digest"]

READERS = 16
"""Threads that read images, or files of predictions."""
MARK = "vimzoo."
"""How the names of our entries in a file's metadata begin."""


def model_digest(model: nn.Module) -> str:
    """The class of a model and a digest of its weights."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return f"{type(model).__name__} {total.hexdigest()[:16]}"


@dataclass(frozen=True)
class PredictionFolder:
    """Images, and a folder of Parquet files with the columns ``file``, ``classes`` and ``error``.

    Each file holds the images that a worker was given at once, and is named by them: a worker that repeats them
    replaces it.

    Attributes:
        source, target: Folders, or URLs of fsspec.
        about: What makes predictions those of a model; stored in each file's metadata.
    """

    source: str
    target: str
    about: dict[str, str]

    def find(self) -> tuple[list[str], int]:
        """Names of the images without a prediction, and the number of the others.

        Raises:
            UsageError: there are no images, or there are predictions of another model.
        """
        names = Remote(self.source).pictures().files
        if not names:
            raise UsageError(f"no images under {self.source}")
        done = self._done()
        return [name for name in names if name not in done], len(done.intersection(names))

    def _done(self) -> set[str]:
        import pyarrow.parquet as parquet

        remote = Remote(self.target)
        try:
            parts = [name for name in remote.walk()[0] if name.endswith(".parquet")]
        except FileNotFoundError:
            return set()

        def files(part: str) -> list[str]:
            (content,) = remote.read([(part, None, None)])
            table = parquet.read_table(io.BytesIO(content), columns=["file"])
            known = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
            for name, value in self.about.items():
                if (theirs := known.get(MARK + name)) != value:
                    raise UsageError(
                        f"--output {self.target}: {part} holds predictions with {name} {theirs}, this is {value}; "
                        "expected another folder"
                    )
            return table["file"].to_pylist()

        with ThreadPoolExecutor(READERS) as pool:
            return {file for found in pool.map(files, parts) for file in found}

    def predict(self, names: list[str], predict: Callable[..., Iterator[dict[str, Any]]]) -> list[str]:
        """Predict images and write a file; gives the reason why each failed, empty if it did not."""
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        remote = Remote(self.source)

        def read(name: str) -> bytes | Exception:
            try:
                (content,) = remote.read([(name, None, None)])
                return content
            except Exception as error:
                return error

        with ThreadPoolExecutor(READERS) as pool:
            contents = dict(zip(names, pool.map(read, names), strict=True))
        rows = list(predict(files=names, opened=functools.partial(_opened, contents)))
        pair = arrow.struct([("class", arrow.string()), ("probability", arrow.float32())])
        schema = arrow.schema(
            [("file", arrow.string()), ("classes", arrow.list_(pair)), ("error", arrow.string())],
            metadata={MARK + name: value for name, value in self.about.items()},
        )
        buffer = io.BytesIO()
        parquet.write_table(arrow.Table.from_pylist(rows, schema), buffer)
        part = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:20]
        Remote(self.target).write(f"part-{part}.parquet", buffer.getvalue())
        return [row.get("error") or "" for row in rows]


def _opened(contents: dict[str, bytes | Exception], name: str) -> io.BytesIO:
    content = contents[name]
    if isinstance(content, Exception):
        raise OSError(str(content)) from content
    return io.BytesIO(content)
