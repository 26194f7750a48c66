"""The generated documents are up to date, complete, and follow the result files."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm

from tools.cards import documents, markdown, restoration, sizes
from tools.cards.__main__ import main
from tools.cards.results import Results, command
from vimzoo.engine.configuration.composing import compose_settings
from vimzoo.models.facts import ModelFacts, RestorationFacts
from vimzoo.models.registry import FAMILIES, known_facts

CLASSIFIERS: dict[str, ModelFacts] = known_facts("classification")  # type: ignore[assignment]
RESTORERS: dict[str, RestorationFacts] = known_facts("restoration")  # type: ignore[assignment]
DOCS = sorted(f"docs/{path.name}" for path in (documents.ROOT / "docs").glob("*.md"))
RESULTS = documents.ROOT / "benchmarks" / "results"
SPEEDS = ("px", "speed_vs_deit")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The parts of a checkout that the documents are made of."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    shutil.copy(documents.ROOT / "README.md", tmp_path)
    return tmp_path


def store(checkout: Path, name: str, rows: list[dict], processor: str = "", date: str = "1976-07-01") -> None:
    """A result file, of a processor or, if none is named, of all."""
    machine = {
        "processor": processor,
        "cores": 2,
        "instruction_set": "base",
        "date": date,
        "torch": "0.1",
    }
    path = checkout / "benchmarks" / "results" / processor.lower() / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"about": "what it is", "machine": machine, "rows": rows}))


def tables(text: str) -> list[list[dict[str, str]]]:
    """The rows of every Markdown table, by column."""
    found: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if not cells:
            header = []
        elif not header:
            header = cells
            found.append([])
        elif set("".join(cells)) != {"-"}:
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


def generated(path: str, name: str, root: Path = documents.ROOT) -> str:
    """What stands between the markers of a generated part of a document."""
    text = (root / path).read_text()
    return text.partition(f"<!-- generated:{name} -->")[2].partition("<!-- end -->")[0]


def test_documents_are_up_to_date() -> None:
    stale = [path.name for path, text in documents.documents().items() if path.read_text() != text]
    assert not stale, f"run: make cards ({', '.join(stale)})"


@pytest.mark.parametrize(
    ("path", "section", "result"),
    [
        ("docs/restoration.md", "photograph", "cpu_restoration_photograph"),
        ("docs/restoration.md", "pairs", "cpu_pairs_crops"),
        ("docs/export.md", "digits", "export_digits"),
        ("docs/training.md", "shards", "shards"),
        ("docs/reliability.md", "reliability", "reliability"),
    ],
)
def test_every_recorded_row_is_in_its_document(path: str, section: str, result: str) -> None:
    """Read off the committed documents and result files, without the generator."""
    recorded = [json.loads(file.read_text()) for file in RESULTS.rglob(f"{result}.json")]
    rows = [row for found in recorded for row in found["rows"]]
    text = generated(path, section)
    (shown,) = tables(text)
    assert len(shown) == len(rows) > 0
    machines = {f"`{file.parent.name}`" for file in RESULTS.rglob(f"{result}.json")}
    for row in rows:
        cells = {markdown.number(value) for value in row.values() if not isinstance(value, dict | list)}
        matching = [got for got in shown if set(got.values()) <= cells | machines | {"-", markdown.DISTURBED}]
        assert len(matching) == 1, row
    assert all(found["machine"]["date"] in text for found in recorded)


def runtime_rows(ms: dict[str, float], **what: object) -> list[dict]:
    """Rows of cpu_runtimes.json: one of our models, which takes 10 ms, and its peer by runtime."""
    same = {"pair": "ours, peer", "px": 224, "dtype": "float32", "batch": 1, "threads": 1} | what
    times = {("ours", "PyTorch"): 10.0, **{("peer", runtime): value for runtime, value in ms.items()}}
    return [{"model": m, "runtime": r, "ms": value, **same} for (m, r), value in times.items()]


def test_speed_in_the_readme_is_relative_to_each_runtime(checkout: Path) -> None:
    rows = runtime_rows({"PyTorch": 12.0, "OpenVINO": 5.0, "onnxruntime": 6.0})
    rows += runtime_rows({"PyTorch": 20.0, "OpenVINO": 4.0}, dtype="bfloat16")
    rows += runtime_rows({"PyTorch": 1.0}, threads=2) + runtime_rows({"PyTorch": 1.0}, batch=8)
    store(checkout, "cpu_runtimes", rows, "Fast")
    assert main([], checkout) == 0
    (shown,) = tables(generated("README.md", "speed", checkout))
    cells = [[row[f"x {runtime}"] for runtime in ("PyTorch", "OpenVINO", "onnxruntime")] for row in shown]
    assert cells == [["1.20", "0.500", "0.600"], ["2.00", "0.400", "-"]]


@pytest.mark.parametrize("path", ["README.md", "MODEL_CARDS.md", *DOCS])
def test_no_table_is_empty(path: str) -> None:
    assert all(tables((documents.ROOT / path).read_text()))


def test_every_registered_model_has_a_card() -> None:
    text = (documents.ROOT / "MODEL_CARDS.md").read_text()
    names = [
        n for n in timm.list_models() if timm.model_entrypoint(n).__module__.startswith("vimzoo.models.")
    ]
    assert set(names) == set(known_facts()) and {"Vim", "VMamba", "MambaIR"} <= set(FAMILIES)
    for name, facts in known_facts().items():
        card = text.partition(f"\n### {name}\n")[2].partition("\n###")[0]
        assert f"{facts.params:,} parameters" in card and f"arXiv:{facts.paper}" in card
        for tag in facts.tags:
            for where in facts.weights(tag).values():
                assert where in card


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_counted_sizes(name: str) -> None:
    size = sizes.size_of(name)
    assert size.params == CLASSIFIERS[name].params
    assert size.flops / 2 <= size.paper_flops < size.flops  # equal without a scan


@pytest.mark.parametrize("name", RESTORERS)
def test_counted_sizes_of_restoration_models(name: str) -> None:
    """Counted from a block of each kind; as published, but for rounding and norms, which count nothing here."""
    size, facts = restoration.counted(RESTORERS[name]), RESTORERS[name]
    assert size.params == facts.params
    assert size.flops / 2 < size.paper_flops < size.flops
    if facts.gmacs is not None:
        assert size.paper_flops / 1e9 == pytest.approx(facts.gmacs, rel=0.04)


def test_sizes_from_blocks_are_those_of_the_whole() -> None:
    whole = sizes.size_of("mambair_light_x4", (3, 180, 320))
    assert restoration.counted(RESTORERS["mambair_light_x4"]) == whole


def test_published_scores_are_shown() -> None:
    """Rows of the papers' tables, whole."""
    text = restoration.score_tables(RESTORERS)
    assert (
        "| [`mambair_light_x4`](#mambair_light_x4) | 32.42 / 0.8977 | 28.74 / 0.7847 | 27.68 / 0.7400 |"
        in text
    )
    assert "| [`mambair_dn`](#mambair_dn), 8x | 28.64 | 29.87 | 30.32 | 30.06 |" in text
    assert "| [`mambairv2_car`](#mambairv2_car) | 33.81 / 0.8970 | 33.73 / 0.9179 |" in text


@pytest.mark.parametrize("name", [name for name, facts in RESTORERS.items() if facts.recipes])
def test_recipes_on_cards_train_their_model(name: str) -> None:
    for tag, words in RESTORERS[name].recipes.items():
        cfg = compose_settings(words.split())
        data, scale = cfg["data"], RESTORERS[name].args.get("scale", 1)
        assert cfg["model"]["model_name"] == name and data.get("scale", 1) == scale
        level = {"sigma": data.get("sigma"), "q": data.get("quality")}.get(tag.rstrip("0123456789"))
        assert level is None or tag.endswith(str(int(level)))
        assert data.get("in_chans", 3) == RESTORERS[name].input_size[0]


def test_flops_by_hand() -> None:
    """Vim-Ti at 224 px, term by term."""
    tokens, dim, depth, states, rank = 197, 192, 24, 16, 12
    inner, directions = 2 * dim, 2
    products = dim * 2 * inner + directions * inner * (rank + 2 * states) + inner * dim
    conv = directions * inner * 4
    macs = depth * tokens * (products + conv) + 196 * dim * 3 * 16 * 16 + dim * 1000
    elements = depth * tokens * inner * directions
    size = sizes.size_of("vim_tiny_patch16_224")
    assert size.flops == 2 * macs + elements * (9 * states + 2 + 2 * rank)
    assert size.paper_flops == macs + elements * (9 * states + 2 + rank)


def test_check_says_what_is_stale_and_writing_cures_it(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], checkout) == 0
    assert main(["--check"], checkout) == 0
    row = {
        "reference": "r",
        "model": "vim_tiny_patch16_224",
        "call": "",
        "output": 1e-6,
        "intermediate": None,
    }
    store(checkout, "parity", [row | {"gradient": 2e-6}])
    capsys.readouterr()
    assert main(["--check"], checkout) == 1
    assert "MODEL_CARDS.md is stale" in capsys.readouterr().out
    assert main([], checkout) == 0
    assert main(["--check"], checkout) == 0
    assert "1.0e-06 / none / 2.0e-06" in (checkout / "MODEL_CARDS.md").read_text()


def test_measured_figures_come_with_machine_and_threads(checkout: Path) -> None:
    rows = [{"model": "vim_tiny_patch16_224", "threads": t, "ms": 10.0 / t, "times": {}} for t in (1, 2)]
    store(checkout, "cpu_each_model", rows, "Z80")
    rows = [
        {"px": 224, "threads": t, "vim_ms": 123.456 / t, "deit_ms": 1.0, "speed_vs_deit": t / 7}
        for t in (1, 2)
    ]
    store(checkout, "cpu_models", rows, "Z80")
    main([], checkout)
    readme, text = (checkout / "README.md").read_text(), (checkout / "MODEL_CARDS.md").read_text()
    compared = Results(checkout / "benchmarks" / "results").compared("cpu_models", SPEEDS, threads=1)
    assert "| 10.0 / 5.00 |" in readme and "1 thread / 2 threads" in readme and "`z80`, Z80, base" in readme
    assert "| 224 | 0.143 |" in compared and "| 0.286 |" not in compared
    assert "Measured 1976-07-01 (`z80`). By `python benchmarks/cpu_models.py models`." in compared
    assert "| 224 | 1 | 0.143 |" in text and "| 224 | 2 | 0.286 |" in text and "1976-07-01" in text
    assert "| vim ms |" not in text, "a second figure for the time of a model"


def test_every_machine_is_shown_the_latest_first(checkout: Path) -> None:
    for processor, date, ms in (("I8080", "1974-04-01", 99.0), ("Z80", "1976-07-01", 11.0)):
        rows = [{"model": "vim_tiny_patch16_224", "threads": 1, "ms": ms}]
        store(checkout, "cpu_each_model", rows, processor, date)
        rows = [
            {"px": px, "threads": 1, "speed_vs_deit": ms} for px in ((224, 512) if ms == 99.0 else (224,))
        ]
        store(checkout, "cpu_models", rows, processor, date)
    main([], checkout)
    text = (checkout / "MODEL_CARDS.md").read_text()
    compared = Results(checkout / "benchmarks" / "results").compared("cpu_models", SPEEDS, threads=1)
    assert "CPU: 11.0 ms per image (1 thread, `z80`)" in text and "CPU: 99.0" not in text
    assert "| `z80` | 512 | not measured |" in compared
    assert text.index("### cpu_models, z80") < text.index("### cpu_models, i8080")
    assert compared.index("| `z80` | 224 | 11.0 |") < compared.index("| `i8080` | 224 | 99.0 |")


def test_a_missing_marker_is_named() -> None:
    with pytest.raises(ValueError, match="generated:speed"):
        documents.fill_sections("no markers here", {"speed": "x"})


def test_without_a_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], tmp_path) == 1
    assert "needs a checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, "-"),
        (3, "3"),
        (1234.5, "1234"),
        (0.5, "0.500"),
        (2.5e-7, "2.5e-07"),
        ("", "-"),
        (100.2, "100"),
    ],
)
def test_cells(value: object, cell: str) -> None:
    assert markdown.number(value) == cell


def test_rows_of_any_number_of_threads_are_shown(checkout: Path) -> None:
    """The photograph is restored with the command's own number of threads, whatever that was."""
    store(
        checkout, "cpu_restoration_photograph", [{"pixels": "40 x 30", "threads": 7, "seconds": 1.5}], "one"
    )
    shown = Results(checkout / "benchmarks" / "results").compared(
        "cpu_restoration_photograph", documents.PHOTOGRAPH
    )
    assert "| 40 x 30 | - | 7 | 1.50 |" in shown


def test_a_table_without_rows_is_an_error(checkout: Path) -> None:
    store(checkout, "cpu_models", [{"px": 224, "threads": 2}], "one")
    with pytest.raises(ValueError, match="no rows to compare in the results of one"):
        Results(checkout / "benchmarks" / "results").compared("cpu_models", ("px",), threads=1)


def test_disturbed_measurements_are_left_out(checkout: Path) -> None:
    """Two threads that are slower than one are a sign of other work on the machine."""
    rows = [{"model": "vim_tiny_patch16_224", "threads": t, "ms": 10.0 * t} for t in (1, 2)]
    rows += [{"model": "vim_small_patch16_224", "threads": t, "ms": 20.0 + t} for t in (1, 2)]
    store(checkout, "cpu_each_model", rows, "Z80")
    main([], checkout)
    text = (checkout / "MODEL_CARDS.md").read_text()
    assert "| vim_tiny_patch16_224 | 2 | disturbed |" in text and "CPU: 10.0 / disturbed ms" in text
    assert "| vim_small_patch16_224 | 2 | 22.0 |" in text and "other work was running" in text


def test_what_is_missing_in_a_table() -> None:
    result = {
        "about": "a",
        "machine": {},
        "rows": [{"px": 1, "ms": 2.5, "slow_ms": None}, {"what": "x", "px": 2, "ms": 3.5, "slow_ms": 9.5}],
    }
    rows = tables(markdown.result_table(result))[0]
    assert [row["slow ms"] for row in rows] == ["not measured", "9.50"]
    assert [row["what"] for row in rows] == ["-", "x"]


@pytest.mark.parametrize(
    "file", sorted(RESULTS.rglob("*.json")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_the_command_of_every_result_is_known(file: Path) -> None:
    """The script of that name writes such a file, and knows the part."""
    if file.parent == RESULTS and not command(file.stem):
        return  # in no table of measurements; the document that shows it names the script
    script, _, part = command(file.stem).removeprefix("python ").partition(" ")
    text = (documents.ROOT / script).read_text()
    assert f'"{file.stem}"' in text or f'f"{file.stem.removesuffix(part)}' in text
    assert not part or f'"{part}"' in text
