"""Vision state-space models for timm: `import vimzoo`, then `timm.create_model("vim_tiny_patch16_224")`."""

import os.path
import signal
import sys
from itertools import pairwise
from typing import Any

# Our own commands: Ctrl-C ends them without a traceback while torch is imported; vimzoo.commands listens again
if (
    any(option == "-m" and name.startswith("vimzoo.") for option, name in pairwise(sys.orig_argv))
    or os.path.basename(sys.argv[0] if sys.argv else "") == "vimzoo-train"
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from vimzoo import ops

from .ops.runtime.onnxruntime import onnxruntime_extension
from .ops.runtime.openvino import openvino_extension

__all__ = [
    "CheckpointError",
    "load_checkpoint",
    "load_restoration",
    "models",
    "onnxruntime_extension",
    "openvino_extension",
    "ops",
    "quantize",
    "restoration_from_tensors",
]
__version__ = "0.1.0"

try:
    import timm  # noqa: F401
except Exception as error:  # a torchvision made for another torch stops it with a RuntimeError
    import warnings

    # Only the ops and the doctor remain; the doctor says more
    _timm_problem = f"timm cannot be imported ({type(error).__name__}: {error})"
    warnings.warn(
        f"vimzoo has no models here, only vimzoo.ops: {_timm_problem}; see python -m vimzoo.doctor",
        RuntimeWarning,
        stacklevel=2,
    )

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError(f"vimzoo.{name}: {_timm_problem}; see python -m vimzoo.doctor")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
else:
    from vimzoo import models

    from .models import CheckpointError, load_checkpoint, load_restoration, restoration_from_tensors
    from .quantization import quantize
