"""Which parameters are matrices, for optimizers that treat matrices apart."""

from torch import nn

_MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fallback_list(model: nn.Module) -> list[str]:
    """Names of the parameters that have two axes or more and are not matrices, for Muon and its variants.

    Muon makes the update of a matrix orthogonal, and treats every parameter with two axes or more as a matrix. In these
    models that includes the scan's parameters, with one slice for each direction (``A_log``, ``D``, ``dt_bias``,
    ``x_proj``, ``dt_proj``), and those of depthwise convolutions, position embeddings, class tokens and tables of
    biases. Only weights of linear layers and of dense convolutions are matrices. Its fallback, AdamW, trains the rest::

        create_optimizer_v2(model, opt="muon", lr=2e-3, fallback_list=vimzoo.models.fallback_list(model))

    The trainer passes this list for these optimizers.

    Args:
        model: Any model, of this package or not.

    Returns:
        Names, as ``named_parameters`` has them; timm reads them as patterns.
    """
    matrices = {
        id(layer.weight)
        for layer in model.modules()
        if isinstance(layer, _MATRIX_LAYERS) and getattr(layer, "groups", 1) == 1
    }
    return [name for name, p in model.named_parameters() if p.dim() > 1 and id(p) not in matrices]
