"""Names that Vim's model file imports and does not use; language models are not part of vimzoo."""

from typing import Any

__all__ = ["GenerationMixin"]


class GenerationMixin:
    """A base class without methods; ``generate`` raises ``NotImplementedError``."""

    def generate(self, *args: Any, **kwargs: Any) -> None:
        """Refused: vimzoo has no language models."""
        raise NotImplementedError("generate: vimzoo has no language models")
