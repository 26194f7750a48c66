"""Draws restore.png: parts of held-out photographs that a run of ``experiment=photos_denoise`` restored.

python train.py experiment=photos_denoise hydra.run.dir=RUN
python docs/figures/draw_restore.py RUN
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from vimzoo.engine.build import build_data
from vimzoo.engine.finished import best_model, run_settings
from vimzoo.engine.tasks.restoration import measured
from vimzoo.metrics import to_8bit

HERE = Path(__file__).resolve().parent
PARTS = {0: (20, 110), 1: (90, 130)}
"""Photograph -> top and left of the part that is shown."""
SIDE = 150


@torch.inference_mode()
def restore_figure(run: Path, path: Path) -> None:
    """Noisy, restored and original, with the PSNR and SSIM of the whole photograph.

    Args:
        run: Folder of a finished training.
        path: What to write.
    """
    cfg = run_settings(run)
    data = build_data(cfg)
    model = best_model(run, cfg, data)
    assert data.test is not None
    figure = Figure(figsize=(8.4, 2.9 * len(PARTS)), layout="constrained")
    for row, (index, (top, left)) in enumerate(PARTS.items()):
        low, high = data.test[index]
        restored = model(low[None])[0]
        named = {"noisy": low, "restored": restored, "original": high}
        for column, (name, image) in enumerate(named.items()):
            axes = figure.add_subplot(len(PARTS), 3, 3 * row + column + 1)
            axes.imshow(to_8bit(image[:, top : top + SIDE, left : left + SIDE]))
            psnr, ssim = measured(image, high, data.scale)
            axes.set_title(name if image is high else f"{name}: {psnr:.2f} dB, SSIM {ssim:.3f}", fontsize=10)
            axes.axis("off")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of experiment=photos_denoise")
    restore_figure(parser.parse_args().run, HERE / "restore.png")
