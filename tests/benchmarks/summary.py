"""Reduce pytest-benchmark's file to what the book shows: medians by row and contestant.

python tests/benchmarks/summary.py MEASURED.json RESULTS.json
"""

import collections
import json
import os
import statistics
import sys
from importlib.metadata import version
from pathlib import Path


def summarise(measured):
    seconds = collections.defaultdict(list)
    rows = {}
    for one in measured["benchmarks"]:
        row, info = one["group"], one["extra_info"]
        seconds[row, info["contestant"]].append(one["stats"]["median"])
        rows.setdefault(row, {"arguments": json.loads(info["arguments"]), "contestants": {}})
        rows[row]["contestants"][info["contestant"]] = {"peak_bytes": info["peak"]}
    for (row, contestant), values in seconds.items():
        rows[row]["contestants"][contestant] |= {
            "median": statistics.median(values),
            "seconds": [round(value, 6) for value in values],
        }
    cpu = measured["machine_info"]["cpu"]
    machine = {
        "processor": cpu.get("brand_raw", "unknown"),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "date": measured["datetime"][:10],
        "python": measured["machine_info"]["python_version"],
    }
    machine |= {name: version(name) for name in ("torch", "jax", "neural-tangents", "numpy")}
    return {"machine": machine, "rows": rows}


def table(results):
    lines = [", ".join(f"{key} {value}" for key, value in results["machine"].items())]
    for row, one in results["rows"].items():
        first = next(iter(one["contestants"].values()))["median"]
        for name, figures in one["contestants"].items():
            lines.append(
                f"{row:20s} {name:26s} {1000 * figures['median']:10.2f} ms  "
                f"[{1000 * min(figures['seconds']):.2f}, {1000 * max(figures['seconds']):.2f}]  "
                f"{figures['median'] / first:8.2f} x  peak {(figures['peak_bytes'] or 0) / 1e6:7.1f} MB"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    results = summarise(json.loads(source.read_text()))
    target.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
