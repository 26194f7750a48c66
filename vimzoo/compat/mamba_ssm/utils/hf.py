"""Names that Vim's model file imports and does not use; language models are not part of vimzoo."""

from typing import Any

__all__ = ["load_config_hf", "load_state_dict_hf"]


def load_config_hf(model_name: str) -> Any:
    """Refused: raises ``NotImplementedError``. `timm.create_model` takes ``hf_hub:`` names."""
    raise NotImplementedError(f"load_config_hf: vimzoo has no language models, got {model_name!r}")


def load_state_dict_hf(model_name: str, device: Any = None, dtype: Any = None) -> Any:
    """Refused: raises ``NotImplementedError``. `timm.create_model` takes ``hf_hub:`` names."""
    raise NotImplementedError(f"load_state_dict_hf: vimzoo has no language models, got {model_name!r}")
