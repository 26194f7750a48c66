"""Commands in two processes: the work is divided, each result comes once, and what is printed is one process's."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import multiprocessing
from torch.distributed import HashStore

from vimzoo import eval as evaluating
from vimzoo import predict, restore
from vimzoo.compat import mambair
from vimzoo.data import inputs
from vimzoo.engine import launch
from vimzoo.engine.configuration.words import composed_settings
from vimzoo.engine.processes import sharing
from vimzoo.engine.processes.cluster import launched
from vimzoo.engine.processes.parallel import ProcessLost, World
from vimzoo.engine.tasks import classification
from vimzoo.errors import UsageError
from vimzoo.restoration import stream
from vimzoo.restoration.memory import available_bytes

RUN = [
    "model=timm",
    "model.model_name=test_vit",
    "data.img_size=16",
    "run.epochs=1",
    "run.device=cpu",
    "run.ema=null",
]
PICTURES = 12
PREDICT = ["pictures", "--model", "test_vit", "--checkpoint", "vit.pth", "--device", "cpu", "--batch", "2"]
RESTORE = ["pictures", "restored", "--checkpoint", "x2.pth", "--device", "cpu", "--quiet"]
COMMANDS = {
    "predict": (predict.main, PREDICT),
    "json": (predict.main, [*PREDICT, "--json"]),
    "usage": (predict.main, [*PREDICT, "--batch", "none"]),
    "unknown": (predict.main, ["pictures", "--model", "vim_tny"]),
    "restore": (restore.main, RESTORE),
    "again": (restore.main, RESTORE),
    "overwrite": (restore.main, [*RESTORE, "--existing", "overwrite"]),
    "other": (restore.main, [*RESTORE, "--self-ensemble"]),
    "eval": (evaluating.main, ["outputs/one/run", "--json", "--out", "scores"]),
    "sizes": (evaluating.main, ["outputs/one/run", "--sizes", "16", "32", "--out", "scores"]),
    "one_image": (
        evaluating.main,
        ["outputs/one/run", "--json", "--out", "one", "run.limit_batches=1", "data.batch_size=1"],
    ),
}
"""What is run, in this order, by one process and by two."""


def one(name: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command, in this process."""
    main, words = COMMANDS[name]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
    return int(status), out.getvalue(), err.getvalue()


def without_pictures(patch=setattr) -> None:
    """Figures that are empty files, as drawing takes seconds."""
    patch(classification, "prediction_sheet", lambda *args: args[-1].touch())
    patch(classification, "confusion_picture", lambda *args: args[-1].touch())


def noting(rank: int) -> None:
    """Note which pictures this process reads, and let each take a moment, so that both get some."""

    def slowly(real):
        def read(path, *args, **kwargs):
            with Path(f"read{rank}").open("a") as file:
                print(path, file=file)
            time.sleep(0.1)
            return real(path, *args, **kwargs)

        return read

    without_pictures()
    inputs.read_image = slowly(inputs.read_image)
    stream.read_picture = slowly(stream.read_picture)


def failing_in(*ranks: int):
    def act():
        rank = int(os.environ["RANK"])
        Path(f"turn{rank}").write_text(str(time.monotonic()))
        if rank in ranks:
            raise ValueError("no such file")
        return rank

    return act


def large(index: int) -> bytes:
    time.sleep(0.02 * (5 - index))
    return bytes([index]) * (9 << 20 if index < 2 else 1)


def helpers(world: World) -> dict:
    """The mechanism alone: results larger than a value of the store, and errors of one process or all."""
    found = {"large": [(part[0], len(part)) for part in sharing.share(large, range(5), world)]}
    found["none"] = list(sharing.share(large, [], world))
    found["turns"] = sharing.in_turn(failing_in(), world)
    for ranks in ((0, 1), (1,)):
        try:
            sharing.in_turn(failing_in(*ranks), world)
        except UsageError as error:
            found[str(ranks)] = str(error)
    return found


def process(rank: int, folder: Path, ports: list[int]) -> None:
    """All commands in one of two processes, each with a port of its own to meet."""
    os.chdir(folder)
    torch.set_num_threads(1)
    noting(rank)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    found = {}
    for name, port in zip(COMMANDS, ports[1:], strict=True):
        os.environ["MASTER_PORT"] = str(port)
        Path(f"read{rank}").write_text("")
        found[name] = [*one(name), Path(f"read{rank}").read_text().split()]
    os.environ["MASTER_PORT"] = str(ports[0])
    with launched() as world:
        found["helpers"] = helpers(world)
    torch.save(found, f"found{rank}.pt")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_place(folder: Path) -> None:
    """Pictures of several sizes, one of which is torn, weights and a run."""
    rng = np.random.default_rng(0)
    (folder / "pictures/deep").mkdir(parents=True)
    for index in range(PICTURES):
        pixels = rng.integers(0, 256, (12 + index, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / ("deep" if index % 3 else "") / f"{index}.png")
    (folder / "pictures/torn.png").write_bytes(b"\x89PNG")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), folder / "vit.pth")
    weights = mambair.official_state_dict(timm.create_model("test_mambair"))
    torch.save({"params": weights}, folder / "x2.pth")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What one process and two processes say, by command: status, output, errors; of two also the pictures read."""
    alone, together = (tmp_path_factory.mktemp(name) for name in ("alone", "together"))
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch.setattr)
        launch(composed_settings(RUN), alone / "outputs/one/run")
    make_place(alone)
    for item in ("outputs", "pictures", "vit.pth", "x2.pth"):
        (together / item).symlink_to(alone / item)
    ports = free_ports(1 + len(COMMANDS))
    multiprocessing.start_processes(process, (together, ports), nprocs=2, start_method="spawn")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(alone), pytest.MonkeyPatch.context() as patch:
        without_pictures(patch.setattr)
        expected = {name: one(name) for name in COMMANDS}
    torch.set_num_threads(threads)
    return expected, [torch.load(together / f"found{rank}.pt") for rank in range(2)], alone, together


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("eval", "sizes", "one_image")])
def test_two_processes_say_what_one_says(name, both):
    expected, (first, second), _, _ = both
    assert tuple(first[name][:2]) == expected[name][:2]
    assert sorted((first[name][2] + second[name][2]).splitlines()) == sorted(expected[name][2].splitlines())
    assert second[name][1] == "" and second[name][0] == (2 if expected[name][0] == 2 else 0)


@pytest.mark.parametrize("name", ["json", "restore", "overwrite"])
def test_each_picture_is_read_once_and_both_processes_read(name, both):
    _, (first, second), _, together = both
    read = first[name][3], second[name][3]
    assert min(map(len, read)) >= 2
    files = [str(path.relative_to(together)) for path in (together / "pictures/").rglob("*.png")]
    assert sorted(read[0] + read[1]) == sorted(files) and len(files) == PICTURES + 1


def test_restored_files_are_those_of_one_process(both):
    expected, _, alone, together = both
    files = {path.relative_to(alone): path.read_bytes() for path in (alone / "restored").rglob("*.*")}
    assert len(files) == PICTURES + 1  # with the note of the folder
    assert {
        path.relative_to(together): path.read_bytes() for path in (together / "restored").rglob("*.*")
    } == files
    assert expected["restore"][:2] == (1, f"{PICTURES} restored, 1 failed\n")
    assert f"{PICTURES} skipped" in expected["again"][1]
    assert "made with other self_ensemble" in expected["other"][2]


@pytest.mark.parametrize("name", ["eval", "one_image"])
def test_scores_are_those_of_one_process(name, both):
    expected, (first, second), alone, together = both
    one, two = (json.loads(text) for text in (expected[name][1], first[name][1]))
    for key in ("images_per_s", "model_images_per_s"):
        assert one.pop(key) > 0 < two.pop(key)
    assert two.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-6)
    assert two.pop("calibration_error") == pytest.approx(one.pop("calibration_error"), rel=1e-6)
    assert two == one and one["images"] == (359 if name == "eval" else 1)
    assert second[name] == [0, "", "", []] and first[name][2] == expected[name][2]
    folder = "scores" if name == "eval" else "one"
    assert {path.name for path in (together / folder).iterdir()} >= {"eval.json", "predictions.png"}
    assert (together / folder / "classes.csv").read_text() == (alone / folder / "classes.csv").read_text()


def test_sizes_are_those_of_one_process(both):
    """Rounded to three digits; the speeds differ."""
    expected, (first, second), _, _ = both
    tables = [
        [line.split() for line in text.splitlines()] for text in (expected["sizes"][1], first["sizes"][1])
    ]
    column = tables[0][0].index("top1")
    assert len(tables[0]) == 3 and tables[0][0] == tables[1][0]
    assert [line[: column + 1] for line in tables[0]] == [line[: column + 1] for line in tables[1]]
    assert second["sizes"] == [0, "", "", []]


def test_results_come_in_order_whatever_their_size(both):
    _, found, _, _ = both
    first, second = (each["helpers"] for each in found)
    assert first["large"] == [(0, 9 << 20), (1, 9 << 20), (2, 1), (3, 1), (4, 1)]
    assert first["none"] == second["none"] == second["large"] == []


def test_one_process_of_a_machine_begins_and_an_error_of_one_reaches_all(both):
    _, found, _, together = both
    assert [each["helpers"]["turns"] for each in found] == [0, 1]
    for each in found:
        assert (
            each["helpers"]["(0, 1)"] == "no such file"
            and each["helpers"]["(1,)"] == "process 1: no such file"
        )
    # The last call failed in process 1 alone, after process 0 had its turn
    assert float((together / "turn0").read_text()) < float((together / "turn1").read_text())


def test_a_process_that_is_gone_is_named(monkeypatch):
    """Under a launcher that does not end the others."""
    monkeypatch.setattr(sharing, "EVERY", 0.0)
    monkeypatch.setattr(sharing, "LOST", 0.2)
    store = HashStore()
    others = sharing.Others(World(0, 3, store=store))
    begin = time.monotonic()
    with pytest.raises(ProcessLost, match="process 2 has not been heard of for 0 s"):
        while time.monotonic() < begin + 5:
            for rank in (1, 2):
                alive = rank == 1 or time.monotonic() < begin + 0.3
                store.set(f"place/{rank}", str(time.monotonic()) if alive else "last")
            others.check()
            time.sleep(0.01)
    assert time.monotonic() > begin + 0.4


def test_under_torchrun(both, tmp_path):
    """As a user starts it: the same output, and a status that is not 0."""
    expected, _, alone, _ = both
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    words = [*launcher, "--rdzv-endpoint=localhost:0", "-m", "vimzoo.predict", *PREDICT, "--json"]
    done = subprocess.run(words, cwd=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == expected["json"][1], done.stderr


def test_memory_of_a_machine_is_shared(monkeypatch):
    device = torch.device("cpu")
    alone = available_bytes(device)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_bytes(device) == pytest.approx(alone / 4, rel=0.2)


def test_restore_does_without_the_packages_of_training():
    """Only its own extra is asked for."""
    code = "import sys; sys.modules['hydra'] = sys.modules['omegaconf'] = None; import vimzoo.restore"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
