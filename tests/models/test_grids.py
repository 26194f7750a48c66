"""Position embeddings are resampled from the grid that they were learned on, also where the counts are equal."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import vimzoo
from vimzoo.compat.official import official_state_dict
from vimzoo.models import MambaIRv2
from vimzoo.models.tokens import resize_pos_embed
from vimzoo.models.vim.dense import VimDense
from vimzoo.models.weights.loading import CheckpointError


def vim(img_size: Any = 64, **options: Any) -> nn.Module:
    """Patches of 16 pixels, so 64 x 64 is a grid of 4 x 4."""
    return timm.create_model("test_vim", img_size=img_size, **options).eval()


def v2(*size: int) -> MambaIRv2:
    return MambaIRv2(3, 12, (1,), 2, 4, 2, num_tokens=4, rank=2, pos_embed_size=size, routing="argmax").eval()


def rows_known(model: nn.Module) -> nn.Module:
    """Every patch's embedding is the number of its row."""
    grid, placement, _ = model.pos_embed_layout()
    rows = torch.arange(float(grid[0])).repeat_interleave(grid[1])
    middle = len(rows) // 2
    if placement == "middle":
        rows = torch.cat([rows[:middle], torch.tensor([-5.0]), rows[middle:]])
    with torch.no_grad():
        model.pos_embed.copy_(rows[None, :, None].expand_as(model.pos_embed))
    return model


def check(model: nn.Module, source: nn.Module) -> None:
    (old, placement, _), (new, _, _) = source.pos_embed_layout(), model.pos_embed_layout()
    assert old != new
    want = resize_pos_embed(source.pos_embed.detach(), old, new, placement)
    torch.testing.assert_close(model.pos_embed.detach(), want)
    patches = model.pos_embed[0, :, 0].detach()
    if placement == "middle":
        middle = len(patches) // 2
        assert patches[middle] == -5.0
        patches = torch.cat([patches[:middle], patches[middle + 1 :]])
    rows = patches.view(new)
    assert torch.allclose(
        rows[:, :1].expand_as(rows), rows, atol=1e-5
    )  # each row of patches is one row still
    assert (rows[1:, 0] > rows[:-1, 0]).all()


WAYS = ("load_checkpoint", "create_model", "wrapped", "data parallel", "load_state_dict", "nested")


@pytest.mark.parametrize(
    ("old", "new"), [(64, (32, 128)), ((32, 128), 64), ((32, 48), (48, 32)), ((32, 64), (64, 32))]
)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_says_its_grid(way: str, old: Any, new: Any, tmp_path: Path) -> None:
    source, path = rows_known(vim(old)), tmp_path / "w.pth"
    state = nn.Sequential(source).state_dict() if way == "nested" else source.state_dict()
    if way == "wrapped":
        torch.save({"model": state, "epoch": 3}, path)
    elif way == "data parallel":
        torch.save(nn.DataParallel(source).state_dict(), path)
    else:
        torch.save(state, path)
    if way == "create_model":
        model = vim(new, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    else:
        model = vim(new)
        if way == "load_state_dict":
            model.load_state_dict(torch.load(path, weights_only=True))
        elif way == "nested":
            nn.Sequential(model).load_state_dict(torch.load(path, weights_only=True))
        else:
            vimzoo.load_checkpoint(model, path)
    check(model, source)


def test_the_record_adds_no_name_and_changes_nothing_else() -> None:
    source = vim((32, 128))
    assert set(source.state_dict()) == {name for name, _ in source.named_parameters()}
    same = vim((32, 128))
    same.load_state_dict(source.state_dict())
    assert torch.equal(same.pos_embed, source.pos_embed)
    again = copy.deepcopy(source)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), source.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed"):
        vim(128).load_state_dict(source.state_dict())


@pytest.mark.parametrize("form", ["the authors' names", "safetensors"])
def test_a_file_that_does_not_say_it_is_of_the_configurations_size(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, path = rows_known(vim(64)), tmp_path / "w.pth"
    if form == "safetensors":
        safetensors.torch.save_file(source.state_dict(), path)
    else:
        torch.save(official_state_dict(source), path)
    with caplog.at_level(logging.WARNING):
        model = vim((32, 128), pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    check(model, source)
    assert "taken for a grid of 4 x 4 and resampled to 2 x 8" in caplog.text
    caplog.clear()
    oblong = rows_known(vim((32, 128)))
    safetensors.torch.save_file(oblong.state_dict(), path)
    overlay = dict(file=str(path), input_size=(3, 32, 128))
    check(vim(64, pretrained=True, pretrained_cfg_overlay=overlay), oblong)
    same = vim((32, 128), pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(same.pos_embed, oblong.pos_embed)


def test_the_argument_says_it(tmp_path: Path) -> None:
    source, path = rows_known(vim((32, 64))), tmp_path / "w.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    model = vim((64, 32))
    vimzoo.load_checkpoint(model, path, pos_embed_grid=(2, 4))
    check(model, source)
    same = vim((32, 64))
    vimzoo.load_checkpoint(same, path)
    assert torch.equal(same.pos_embed, source.pos_embed)
    with pytest.raises(
        CheckpointError, match=r"8 patches are no square grid .* pass pos_embed_grid=\(rows, columns\)"
    ):
        vimzoo.load_checkpoint(vim(64), path)
    with pytest.raises(
        CheckpointError, match=r"pos_embed_grid: expected rows x columns of 8 patches .* got 3 x 3"
    ):
        vimzoo.load_checkpoint(vim(64), path, pos_embed_grid=(3, 3))
    with pytest.raises(TypeError, match="pos_embed_grid: VMamba has no position embedding of unknown grid"):
        vimzoo.load_checkpoint(timm.create_model("test_vmamba"), path, pos_embed_grid=(3, 3))


def test_a_square_is_assumed_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, path = rows_known(vim(48)), tmp_path / "w.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    model = vim((32, 64))
    vimzoo.load_checkpoint(model, path)
    check(model, source)
    assert "9 patches taken for a grid of 3 x 3" in caplog.text


def test_the_models_own_oblong_grid_is_assumed_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, path = rows_known(vim((32, 96))), tmp_path / "w.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    model = vim((96, 32))
    vimzoo.load_checkpoint(model, path, pos_embed_grid=(2, 6))
    check(model, source)
    assert not caplog.text
    vimzoo.load_checkpoint(model, path)
    assert "12 patches taken for the model's own grid of 6 x 2: nothing says which grid it is" in caplog.text


def test_a_folder_in_timms_format_says_it(tmp_path: Path) -> None:
    source = rows_known(vim((32, 64)))
    inputs = dict(input_size=(3, 32, 64))
    timm.models.save_for_hf(source, str(tmp_path), {}, safe_serialization=True, data_config=inputs)
    check(timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=(64, 32)), source)
    model = vim((64, 32))
    vimzoo.load_checkpoint(model, tmp_path / "model.safetensors")
    check(model, source)


@pytest.mark.parametrize("says", ["the file", "the argument"])
def test_a_dense_backbone_starts_from_a_classifiers_grid(says: str, tmp_path: Path) -> None:
    source, path = rows_known(vim(64)), tmp_path / "w.pth"
    told: dict[str, Any] = {}
    if says == "the file":
        torch.save(source.state_dict(), path)
    else:
        safetensors.torch.save_file(source.state_dict(), path)
        told = dict(pos_embed_grid=(4, 4))
    dense = VimDense((0, 1, 2, 2), img_size=(32, 128), embed_dim=32, depth=3, d_state=8)
    dense.load_classifier(path, **told)
    rows = dense.pos_embed[0, :, 0].detach().view(2, 8)
    assert torch.allclose(rows, rows[:, :1].expand(2, 8), atol=1e-5) and rows[1, 0] > rows[0, 0]


def equal_rows(pos_embed: Tensor, size: tuple[int, int]) -> bool:
    rows = pos_embed[0, :, 0].detach().view(size)
    return torch.allclose(rows, rows[:, :1].expand(size), atol=1e-5)


def test_restoration_networks_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, path, bare = rows_known(v2(4, 16)), tmp_path / "w.pth", tmp_path / "w.safetensors"
    torch.save(source.state_dict(), path)
    safetensors.torch.save_file(source.state_dict(), bare)
    model = v2(8, 8)
    vimzoo.load_checkpoint(model, path)
    check(model, source)
    check_bare = v2(8, 8)
    vimzoo.load_checkpoint(check_bare, bare, pos_embed_grid=(4, 16))
    check(check_bare, source)
    found = vimzoo.load_restoration(path)
    assert found.pos_embed_size == (4, 16) and torch.equal(found.pos_embed, source.pos_embed)
    told = vimzoo.load_restoration(bare, pos_embed_size=(4, 16))
    assert told.pos_embed_size == (4, 16) and torch.equal(told.pos_embed, source.pos_embed)
    assert "square" not in caplog.text
    assert vimzoo.load_restoration(bare).pos_embed_size == (8, 8)
    assert "a position embedding of 64 rows is taken for a square" in caplog.text
    safetensors.torch.save_file(v2(4, 8).state_dict(), bare)
    with pytest.raises(CheckpointError, match=r"pos_embed_size: expected \(rows, columns\) of 32 positions"):
        vimzoo.load_restoration(bare)


def test_the_models_own_resizing_keeps_rows() -> None:
    model = rows_known(vim(64))
    model.set_input_size((32, 128))
    patches = model.pos_embed[:, [i for i in range(17) if i != 8]]
    assert equal_rows(patches, (2, 8))
