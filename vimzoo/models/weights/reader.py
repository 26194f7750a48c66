"""Reads weight files as their authors saved them, without running anything that they contain.

Training scripts save far more than weights: `{model, model_ema, optimizer, epoch, args: Namespace,
config: CfgNode, max_accuracy: numpy scalar, ...}`. `torch.load(weights_only=True)` refuses such files, and
`weights_only=False` runs any code they hold. Here known classes that only hold data are replaced by placeholders
through torch's own allow-list, so no foreign package is imported or needed. Every other class or function is
refused by name.
"""

import json
import os
import pickle
import re
import threading
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .contents import ROUTING, CheckpointError, Tensors, select_tensors

__all__ = ["CheckpointError", "read_checkpoint", "read_tensors", "select_tensors"]


class _Record:
    """Stands in for an object that carries settings: accepts anything, keeps nothing, does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# torch's unpickler fills only exact dicts and lists, so the stand-ins of their subclasses make these.
class _Dict:
    def __new__(cls, *args: object) -> Any:
        return OrderedDict()


class _List:
    def __new__(cls, *args: object) -> Any:
        return []


_STAND_INS: dict[type, str] = {
    _Dict: """builtins.dict collections.defaultdict yacs.config.CfgNode fvcore.common.config.CfgNode
        detectron2.config.config.CfgNode pytorch_lightning.utilities.parsing.AttributeDict
        lightning.pytorch.utilities.parsing.AttributeDict lightning_fabric.utilities.data.AttributeDict
        lightning.fabric.utilities.data.AttributeDict easydict.EasyDict addict.addict.Dict mmcv.utils.config.ConfigDict
        mmengine.config.config.ConfigDict""",
    _List: "builtins.list collections.deque",
    _Record: """argparse.Namespace types.SimpleNamespace copyreg._reconstructor
        builtins.object builtins.int builtins.float builtins.str builtins.bool
        builtins.bytes builtins.tuple builtins.type builtins.NoneType typing.Any typing.Union
        datetime.datetime datetime.date datetime.timedelta uuid.UUID
        numpy.dtype numpy.ndarray numpy.bool_ numpy.float64 numpy.int64
        numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct
        numpy._core.multiarray.scalar numpy._core.multiarray._reconstruct
        omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.base.ContainerMetadata
        omegaconf.base.Metadata omegaconf.base.SCMode omegaconf.nodes.AnyNode omegaconf.nodes.StringNode
        omegaconf.nodes.IntegerNode omegaconf.nodes.FloatNode omegaconf.nodes.BooleanNode
        omegaconf.nodes.PathNode omegaconf.nodes.EnumNode omegaconf.nodes.BytesNode
        omegaconf.nodes.InterpolationResultNode
        mmengine.logging.history_buffer.HistoryBuffer
        PIL.Image.Resampling torchvision.transforms.functional.InterpolationMode""",
}
_PATHS = [
    f"{module}.{name}"  # Python 3.13 alone writes `_local`
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
]
_SAFE_GLOBALS: list[Any] = [
    *((stand_in, name) for stand_in, names in _STAND_INS.items() for name in names.split()),
    *((_Record, name) for name in _PATHS),
]
# torch keeps its allow-list in one global set: two threads must not put it back for each other.
_LOCK = threading.Lock()

_LOOKS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"<", "an HTML or XML page, probably a download page or its error message"),
    (b"{", "a JSON or text file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
)


def read_checkpoint(path: str | os.PathLike[str], *, use_ema: bool | None = None) -> dict[str, Tensor]:
    """Reads the weights in a checkpoint file under the names its authors gave them.

    Takes files of `torch.save` (zip format, and the one before torch 1.6), with or without a training
    script's wrapper, and safetensors. Nothing in the file is executed and no package that wrote it is needed.
    Prefixes that DataParallel and `torch.compile` put before every name are removed. Where a file holds several sets
    of tensors under keys that are not known, all are returned, each name after its key and a dot.

    Args:
        path: The file.
        use_ema: Take the moving average (`model_ema`, `state_dict_ema`, `params_ema`, `ema` and others), or the
            trained weights (`model`, `state_dict`, `params`, `model_state_dict`, `net`, ..., or the bare state dict).
            None takes those that the file's authors evaluated: the trained ones, but the average of a checkpoint of
            our trainer and of a file of BasicSR's (`params_ema` before `params`). From a file with only an average it
            is always taken.

    Returns:
        Name to tensor, on the CPU; the tensors own their memory and do not depend on the file.

    Raises:
        CheckpointError: The file is missing, not a checkpoint, damaged, holds no tensors or no average though
            one is asked for, or asks for code to be run.
    """
    return {name: tensor.clone() for name, tensor in read_tensors(path, use_ema=use_ema).items()}


def read_tensors(path: str | os.PathLike[str], *, use_ema: bool | None = None) -> Tensors:
    """As `read_checkpoint`, but the tensors may be views of the file, so it must not change meanwhile."""
    file = Path(path)
    return select_tensors(_read_any(file), str(file), use_ema=use_ema)


def _read_any(file: Path) -> object:
    """Opens a file of any supported format, or raises CheckpointError with the reason."""
    if not file.exists():
        raise CheckpointError(f"{file}: no such file")
    if not file.is_file():
        raise CheckpointError(f"{file}: a directory, not a weight file")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    if not head:
        raise CheckpointError(f"{file}: empty file (0 bytes)")
    if _is_safetensors(file, head):
        return _read_safetensors(file)
    if head.startswith(b"PK"):
        return _torch_load(file, mmap=_check_zip(file))
    for magic, look in _LOOKS:
        if head.lstrip().startswith(magic):
            raise CheckpointError(f"{file}: not a checkpoint; it looks like {look}")
    if not head.startswith(b"\x80"):
        raise CheckpointError(
            f"{file}: not a checkpoint; neither torch.save nor safetensors wrote its first bytes {head[:8]!r}"
            f" (of {size})"
        )
    return _torch_load(file, mmap=False)


def _is_safetensors(file: Path, head: bytes) -> bool:
    # By content as well: the Hub's cache and many scripts rename files.
    return head[8:9] == b"{" or (
        file.suffix == ".safetensors" and not head.lstrip().startswith((b"<", b"version"))
    )


def _read_safetensors(file: Path) -> Tensors:
    try:
        tensors = Tensors(safetensors.torch.load_file(file, device="cpu"))
        tensors.img_size, tensors.routing = _configured(file.with_name("config.json"))
        return tensors
    except Exception as error:
        raise CheckpointError(f"{file}: a truncated or damaged safetensors file ({error})") from error


def _configured(config: Path) -> tuple[tuple[int, int] | None, str | None]:
    """Height and width of the images of the model that timm has described in this file, and its routing, if any."""
    routing = None
    try:
        content = json.loads(config.read_bytes())
        args = content.get("model_args", {})
        routing = args.get(ROUTING)
        size = args.get("img_size") or content["pretrained_cfg"]["input_size"][1:]
        height, width = (size, size) if isinstance(size, int) else size
        return (int(height), int(width)), routing
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, routing


def _check_zip(file: Path) -> bool:
    """Explains a zip file that torch.save did not write; True when its tensors can be mapped into memory."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile's errors on damaged files have no common base class
        raise CheckpointError(
            f"{file}: truncated or damaged; a zip file without its directory ({error})"
        ) from error
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{file}: a TorchScript program, not a checkpoint; save its state_dict() instead"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        listing = ", ".join(names[:3]) or "nothing"
        raise CheckpointError(f"{file}: a zip archive, but not of torch.save; it holds {listing}, ...")
    # torch maps a compressed entry as if it were the tensor itself, which gives noise instead of an error.
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _torch_load(file: Path, mmap: bool) -> object:
    try:
        with _LOCK, torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(str(file), map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: {_refusal(str(error))}") from error
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise CheckpointError(f"{file}: truncated or damaged ({type(error).__name__}: {reason})") from error


def _refusal(message: str) -> str:
    if match := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message):
        module, _, name = match[1].rpartition(".")
        name = (
            f"{IMPORT_MAPPING.get(module, module) or 'builtins'}.{name}"  # protocol 2 writes Python 2's names
        )
        return (
            f"refused, because loading it would call {name}, which is neither part of a tensor nor a known"
            " record; nothing was run. If you trust the file, save its state_dict() alone and load that"
        )
    if match := re.search(r"Unsupported operand (\d+)", message):
        return f"damaged, or not written by torch.save with its usual pickle protocol 2 (opcode {match[1]})"
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith("Check the doc")]
    return f"refused by torch's safe reader; nothing was run ({lines[-1].strip()})"
