"""Reads weight files as their authors saved them, without running anything that they contain.

Training scripts save far more than weights: `{model, model_ema, optimizer, epoch, args: Namespace,
config: CfgNode, max_accuracy: numpy scalar, ...}`. `torch.load(weights_only=True)` refuses such files, and
`weights_only=False` runs whatever they hold. Here the foreign classes that are known to be mere records are
read as inert stand-ins through torch's own allow-list, so no foreign package is imported or needed, and every
other class or function is refused by name.
"""

import os
import pickle
import re
import threading
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

__all__ = ["CheckpointError", "read_checkpoint", "read_tensors", "select_tensors"]

PLAIN_KEYS = ("model", "state_dict", "params")
EMA_KEYS = ("model_ema", "state_dict_ema", "ema_model", "params_ema", "ema")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")


class CheckpointError(ValueError):
    """A weight file that cannot be used; the message names the file and the reason."""


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
        detectron2.config.config.CfgNode easydict.EasyDict addict.addict.Dict mmcv.utils.config.ConfigDict
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


def read_checkpoint(path: str | os.PathLike[str], *, use_ema: bool = False) -> dict[str, Tensor]:
    """Reads the weights in a checkpoint file under the names its authors gave them.

    Takes files of `torch.save` (zip format, and the one before torch 1.6), with or without a training
    script's wrapper, and safetensors. Nothing in the file is executed and no package that wrote it is needed.
    Prefixes that DataParallel and `torch.compile` put before every name are removed.

    Args:
        path: The file.
        use_ema: Take the moving average (`model_ema`, `state_dict_ema`, `ema_model`, `params_ema`, `ema`)
            instead of the trained weights (`model`, `state_dict`, `params`, or the bare state dict). A file
            that holds nothing but an average, as BasicSR's `params_ema`, gives it either way.

    Returns:
        Name to tensor, on the CPU; the tensors own their memory and do not depend on the file.

    Raises:
        CheckpointError: The file is missing, not a checkpoint, damaged, holds no tensors or no average though
            one is asked for, or asks for code to be run.
    """
    return {name: tensor.clone() for name, tensor in read_tensors(path, use_ema=use_ema).items()}


def read_tensors(path: str | os.PathLike[str], *, use_ema: bool = False) -> dict[str, Tensor]:
    """As `read_checkpoint`, but the tensors may be views of the file, so it must not change meanwhile."""
    file = Path(path)
    return select_tensors(_read_any(file), str(file), use_ema=use_ema)


def select_tensors(content: object, source: str, *, use_ema: bool = False) -> dict[str, Tensor]:
    """Picks one set of weights out of a file's content and removes wrapper prefixes.

    Args:
        content: What the file holds: a state dict, or a mapping with one or more inside.
        source: The file's name, for messages.
        use_ema: As in `read_checkpoint`.

    Returns:
        Name to tensor; entries that are not tensors are left out.

    Raises:
        CheckpointError: No tensors, or no moving average though `use_ema` asks for it.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source}: no named tensors inside, it holds one {type(content).__name__}")
    plain = [key for key in PLAIN_KEYS if _tensors_in(content.get(key))]
    ema = [key for key in EMA_KEYS if _tensors_in(content.get(key))]
    if not use_ema and not plain and _tensors_in(content, nested=False):
        chosen: object = content
    elif use_ema and not ema:
        raise CheckpointError(f"{source}: no moving average (EMA) inside, it has {_some(content)}")
    elif plain or ema:
        chosen = content[(ema if use_ema or not plain else plain)[0]]
    else:
        raise CheckpointError(f"{source}: no tensors inside, it has {_some(content)}")
    return _strip_prefixes(_tensors_in(chosen))


def _tensors_in(value: object, nested: bool = True) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    found = {str(name): item.detach() for name, item in value.items() if isinstance(item, Tensor)}
    if not found and nested:  # a whole wrapper saved inside another, as old timm averages are
        return next((inner for key in PLAIN_KEYS if (inner := _tensors_in(value.get(key), False))), {})
    return found


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while len(tensors) > 0:
        named = [name for name in tensors if name != "n_averaged"]  # torch's AveragedModel counts its steps
        prefix = next((p for p in WRAPPER_PREFIXES if named and all(n.startswith(p) for n in named)), None)
        if prefix is None:
            break
        tensors = {name[len(prefix) :]: tensors[name] for name in named}
    return tensors


def _some(content: Mapping[Any, object]) -> str:
    keys = [str(key) for key in content]
    return f"only {', '.join(keys[:12])}{', ...' if len(keys) > 12 else ''}" if keys else "nothing"


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


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file, device="cpu")
    except Exception as error:
        raise CheckpointError(f"{file}: a truncated or damaged safetensors file ({error})") from error


def _check_zip(file: Path) -> bool:
    """Explains a zip file that torch.save did not write; True when its tensors can be mapped into memory."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile has no common base for what a damaged file makes it raise
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
