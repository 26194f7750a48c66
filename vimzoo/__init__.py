"""Vision state-space models for timm: `import vimzoo`, then `timm.create_model("vim_tiny_patch16_224")`."""

from . import models, ops
from .models import CheckpointError, load_checkpoint, load_restoration

__all__ = ["CheckpointError", "load_checkpoint", "load_restoration", "models", "ops"]
__version__ = "0.1.0"
