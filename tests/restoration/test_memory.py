"""What memory there is, by every limit that may hold, and what a model takes of it."""

import subprocess
import sys
import weakref
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vimzoo.compat import mambair
from vimzoo.errors import is_out_of_memory
from vimzoo.restoration import memory
from vimzoo.restoration.memory import automatic_tile, available_bytes, bytes_per_pixel

GB = 10**9
CPU = torch.device("cpu")


def group_files(root: Path, group: str, names: tuple[str, str], limit: str, used: int, cache: str) -> None:
    folder = root / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{cache}\nslab 3\n")


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    names = ("memory.max", "memory.current")
    group_files(tmp_path, "slice/job", names, "max", 100, "inactive_file 40")
    group_files(tmp_path, "slice", names, "5000", 3000, "inactive_file 1500")
    own = tmp_path / "own"
    own.write_text("0::/slice/job\n")
    assert list(memory.group_rooms(tmp_path, own)) == [5000 - 3000 + 1500]
    own.write_text("0::/\n")
    group_files(tmp_path, ".", names, "900", 100, "inactive_file 0")
    assert list(memory.group_rooms(tmp_path, own)) == [800]
    own.write_text("0::/not/seen/from/here\n")
    assert list(memory.group_rooms(tmp_path, own)) == [800]


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group_files(tmp_path / "memory", "box", names, "9000", 4000, "total_inactive_file 1000")
    own = tmp_path / "own"
    own.write_text("12:cpu,cpuacct:/box\n7:memory:/box\n0::/box\n")
    assert list(memory.group_rooms(tmp_path, own)) == [6000]
    assert list(memory.group_rooms(tmp_path, tmp_path / "missing")) == []


@pytest.mark.parametrize(("limit", "field"), (("RLIMIT_AS", "vms"), ("RLIMIT_DATA", "data")))
def test_a_limit_of_the_process_counts(limit: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="no such limits on this system")
    used = getattr(psutil.Process().memory_info(), field, None)
    if used is None:
        pytest.skip(f"this system does not tell {field}")
    limits = {getattr(resource, limit): used + GB // 10}
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY), resource.RLIM_INFINITY)
    )
    assert 0 < available_bytes(CPU) < 2 * GB // 10


def test_there_is_memory() -> None:
    assert 10**8 < available_bytes(CPU) < 10**14


class Living(TorchDispatchMode):
    """The most bytes of tensors alive at once in a pass that is really computed."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor) and result.untyped_storage()._cdata not in self.sizes:
                key = result.untyped_storage()._cdata
                self.sizes[key] = result.untyped_storage().nbytes()
                weakref.finalize(result.untyped_storage(), self.sizes.pop, key, None)
                self.peak = max(self.peak, sum(self.sizes.values()))
        return results


@pytest.mark.parametrize("kind", ("light_x2", "v2", "unet", "car"))
def test_what_a_model_takes_is_known_without_running_it(small, kind: str) -> None:
    model = small(kind)
    side = memory.PROBE_SIDE
    with torch.no_grad(), Living() as real:
        model(torch.rand(1, model.in_chans, side, side))
    counted, lived = bytes_per_pixel(model), real.peak / side**2
    assert (
        0.9 * lived < counted < (2.0 if kind == "v2" else 1.1) * lived
    )  # fused attention is counted unfused
    assert all(parameter.device == CPU for parameter in model.parameters())


def test_the_tile_follows_the_memory(small, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("light_x2")
    per_pixel = bytes_per_pixel(model)
    sides = []
    for room in (0, GB // 50, GB // 4, 100 * GB):
        monkeypatch.setattr(memory, "available_bytes", lambda device, room=room: room)
        tile = automatic_tile(model, CPU)
        assert tile**2 * per_pixel <= room or tile == min(memory.TILES)
        assert automatic_tile(model, CPU, batch=9) <= tile
        sides.append(tile)
    assert sides == sorted(sides) and sides[0] == min(memory.TILES) and sides[-1] == memory.LARGEST_ON_CPU
    assert automatic_tile(model, torch.device("cuda")) == max(memory.TILES)


LIMITED = """
import resource, sys
import imagecodecs, psutil, tifffile, timm, torch
import vimzoo.restoration
from vimzoo.restore import main
room = int(sys.argv[1]) + psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address-space limits are Linux's")
@pytest.mark.parametrize("kind", ("light_x2", "v2", "unet"))
def test_the_command_goes_on_where_memory_is_really_short(small, kind: str, tmp_path: Path) -> None:
    torch.save({"params": mambair.official_state_dict(small(kind))}, tmp_path / "model.pth")
    Image.effect_noise((640, 600), 60).convert("RGB").save(tmp_path / "in.png")
    words = [str(GB // 2), "in.png", "out.png", "--checkpoint", "model.pth", "--tile", "640", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "out of memory with tiles of 640 pixels" in done.stderr and done.stdout.strip() == "1 restored"


def test_real_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(
        ValueError("out of memory")
    )
