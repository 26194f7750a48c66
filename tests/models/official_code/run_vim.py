"""Vim's own code, unmodified: its model file on our `mamba_ssm` against our model, and its training loop on ours.

python run_vim.py CHECKOUT
"""

import argparse
import contextlib
import importlib
import io
import random
import sys

import timm.models.layers
import timm.models.registry  # noqa: F401  the old places of timm's functions, with warnings
import torch

from vimzoo.compat import vim

ALIASED = ("", ".modules", ".modules.mamba_simple", ".ops", ".ops.triton", ".ops.triton.layer_norm", ".utils",
           ".utils.generation", ".utils.hf")  # fmt: skip
SMALL = dict(img_size=32, patch_size=8, stride=8, embed_dim=16, depth=3, num_classes=5)
OPTIONS = (
    {},
    dict(use_middle_cls_token=False),
    dict(use_double_cls_token=True),
    dict(if_cls_token=False, final_pool_type="max"),
    dict(if_bimamba=True, rms_norm=False, fused_add_norm=False),
)


def official_state(model) -> dict:
    """Their model's state; its mixers are ours and give their tensors one by one."""
    state = {name: tensor for name, tensor in model.state_dict().items() if ".mixer." not in name}
    for name, module in model.named_modules():
        if isinstance(module, vim.Mamba):
            state.update({f"{name}.{key}": value for key, value in vim.official_state_dict(module).items()})
    return state


def check_model(models_mamba) -> None:
    x = torch.randn(2, 3, 32, 32)
    for options in OPTIONS:
        theirs, ours = (
            build(**SMALL, **options).eval() for build in (models_mamba.VisionMamba, vim.VisionMamba)
        )
        ours.load_state_dict(official_state(theirs))
        for place, shuffle in ((False, False), (True, False), (False, True), (True, True)):
            if shuffle and not theirs.if_cls_token:
                continue  # theirs fails, ours refuses
            random.randint = lambda low, high: 5
            torch.randint = lambda high, size: torch.tensor(5)
            torch.randperm = lambda count: torch.arange(count).flip(0).roll(3)
            given = dict(if_random_cls_token_position=place, if_random_token_rank=shuffle)
            with contextlib.redirect_stdout(io.StringIO()):
                want = theirs(x, **given)
            error = ((ours(x, **given) - want).abs().max() / want.std()).item()
            assert error < 3e-5, (options, given, error)


def check_training(engine, losses) -> None:
    torch.cuda.synchronize = lambda *args: None
    model = vim.VisionMamba(**SMALL, use_middle_cls_token=False)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss = losses.DistillationLoss(torch.nn.CrossEntropyLoss(), None, "none", 0.5, 1.0)
    data = [(torch.randn(4, 3, 32, 32), torch.randint(5, (4,))) for _ in range(2)]
    for randomly in (False, True):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        args = argparse.Namespace(cosub=False, bce_loss=False, if_nan2num=False, if_continue_inf=False,
                                  if_random_cls_token_position=randomly, if_random_token_rank=randomly)  # fmt: skip
        engine.train_one_epoch(model, loss, data, optimizer, torch.device("cpu"), 0, "none", contextlib.nullcontext,
                               1.0, args=args)  # fmt: skip
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert engine.evaluate(data, model, torch.device("cpu"), contextlib.nullcontext)["acc5"] == 100.0


if __name__ == "__main__":
    for name in ALIASED:
        sys.modules[f"mamba_ssm{name}"] = importlib.import_module(f"vimzoo.compat.mamba_ssm{name}")
    sys.path.insert(0, f"{sys.argv[1]}/vim")
    torch.manual_seed(0)
    check_training(importlib.import_module("engine"), importlib.import_module("losses"))
    check_model(importlib.import_module("models_mamba"))
    print("equal")
