"""MambaIR's own code, unmodified: its networks on our `mamba_ssm` against ours, and BasicSR's training loop on ours.

python run_mambair.py CHECKOUT
"""

import importlib
import sys
import tempfile
import types

import torch

from vimzoo.compat import mambair

SMALL = dict(
    img_size=16, embed_dim=32, d_state=4, depths=[2, 1], mlp_ratio=1.2, upscale=2, upsampler="pixelshuffle"
)
OPTIONS = ({}, dict(upsampler="pixelshuffledirect"), dict(upscale=1, upsampler="", resi_connection="3conv"))


class Absent(types.ModuleType):
    """A package that their data folders import, of which nothing is used here."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(name)


def check_network(registry) -> None:
    x = torch.rand(1, 3, 16, 12)
    for options in OPTIONS:
        theirs, ours = (
            build(**{**SMALL, **options}).eval() for build in (registry.get("MambaIR"), mambair.MambaIR)
        )
        ours.load_state_dict(theirs.state_dict())
        want = theirs(x)
        error = ((ours(x) - want).abs().max() / want.std()).item()
        assert error < 3e-5, (options, error)


def check_training(registry, build_model, folder: str) -> None:
    registry._obj_map["MambaIR"] = mambair.MambaIR  # as a file of one's own would register it
    train = dict(ema_decay=0.9, optim_g=dict(type="Adam", lr=1e-3), scheduler=dict(type="MultiStepLR", milestones=[2]),
                 pixel_opt=dict(type="L1Loss"))  # fmt: skip
    path = dict(pretrain_network_g=None, strict_load_g=True, models=folder, training_states=folder)
    model = build_model(dict(num_gpu=0, is_train=True, dist=False, rank=0, scale=2, model_type="MambaIRModel",
                             network_g=dict(type="MambaIR", **SMALL), path=path, train=train))  # fmt: skip
    before = [parameter.detach().clone() for parameter in model.net_g.parameters()]
    for step in (1, 2):
        model.feed_data(dict(lq=torch.rand(2, 3, 16, 16), gt=torch.rand(2, 3, 32, 32)))
        model.update_learning_rate(step)
        model.optimize_parameters(step)
    moved = sum(not torch.equal(a, b) for a, b in zip(before, model.net_g.parameters(), strict=True))
    assert moved > 0.9 * len(before) and model.get_current_log()["l_pix"] > 0
    model.scale, model.lq = 2, torch.rand(1, 3, 16, 16)
    model.test()
    assert model.output.shape == (1, 3, 32, 32)
    model.save(0, 2)
    for key in ("params", "params_ema"):
        model.load_network(model.net_g, f"{folder}/net_g_2.pth", True, key)


if __name__ == "__main__":
    for name in ("", ".ops", ".ops.selective_scan_interface"):
        sys.modules[f"mamba_ssm{name}"] = importlib.import_module(f"vimzoo.compat.mamba_ssm{name}")
    for name in ("cv2", "lmdb", "torchvision.transforms.functional_tensor"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = Absent(name)
    sys.path.insert(0, sys.argv[1])
    torch.manual_seed(0)
    registry = importlib.import_module("basicsr.utils.registry").ARCH_REGISTRY
    importlib.import_module("basicsr.archs")
    check_network(registry)
    with tempfile.TemporaryDirectory() as folder:
        check_training(registry, importlib.import_module("basicsr.models").build_model, folder)
    print("equal")
