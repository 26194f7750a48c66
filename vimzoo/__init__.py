"""Vision state-space models for timm: `import vimzoo`, then `timm.create_model("vim_tiny_patch16_224")`."""

from typing import Any

from . import ops

__all__ = ["CheckpointError", "load_checkpoint", "load_restoration", "models", "ops"]
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
    from . import models
    from .models import CheckpointError, load_checkpoint, load_restoration
