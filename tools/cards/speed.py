"""README.md's table of speed: our models beside transformers of their size in the runtimes of ``cpu_runtimes.py``."""

from __future__ import annotations

from .markdown import NOT_MEASURED, machine_line, table
from .results import Results, command

NAME = "cpu_runtimes"


def readme_table(results: Results) -> str:
    """One row for each model, resolution and dtype, one image and one thread, of the machine measured last.

    A cell holds the peer's time in a runtime divided by our time; "-" where the runtime has not that dtype.
    """
    result = results.newest(NAME)
    rows = [row for row in result["rows"] if row["batch"] == row["threads"] == 1]
    if not rows:
        return "Not measured yet."
    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    times = {(r["pair"], r["px"], r["dtype"], r["model"], r["runtime"]): r["ms"] for r in rows}
    body = []
    for pair, px, dtype in dict.fromkeys((row["pair"], row["px"], row["dtype"]) for row in rows):
        ours, peer = pair.split(", ")
        best = times[pair, px, dtype, ours, "PyTorch"]
        ratios = [times.get((pair, px, dtype, peer, runtime)) for runtime in runtimes]
        body.append([f"`{ours}`", f"`{peer}`", px, dtype, *(ms and ms / best for ms in ratios)])
    header = ["model", "peer", "px", "dtype", *(f"x {runtime}" for runtime in runtimes)]
    said = (
        "x: the peer's time in that runtime divided by our model's in PyTorch (eager mode); above 1 ours is faster. "
        f"{machine_line(result['machine'])}, onnxruntime {result['machine'].get('onnxruntime', NOT_MEASURED)}, "
        f"OpenVINO {result['machine'].get('openvino', NOT_MEASURED).partition('-')[0]}. By `{command(NAME)}`."
    )
    return f"{table(header, body)}\n\n{said}"
