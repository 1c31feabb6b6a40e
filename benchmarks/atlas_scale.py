"""What a build of an atlas survives and costs: kills at random moments, two workers, 200 subjects.

    python benchmarks/atlas_scale.py --data FOLDER --out DIR [--methods kill,workers,memory]

`FOLDER` holds `images/` with volumes that are not CT. Every build is the command
`calcium-score atlas build` in a process of its own.

kill     a build is killed (SIGKILL, workers too) five times at random moments and given again
         each time; its images and transforms are compared, bit for bit, with those of a build
         that was left alone.
workers  seconds of the rounds with one worker and with two, which need two free processors.
memory   peak memory of one process over all of its life for 20 and for 200 subjects, affine rounds
         and one deformable one.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.benchmark_options import options_parser, parse_options
from benchmarks.results_table import write_csv, write_results

METHODS = ("kill", "workers", "memory")

KILLS = 5
KILL_SUBJECTS = 10
WORKER_SUBJECTS = 16
MEMORY_SUBJECTS = (20, 200)

COMPARED = ("*.nii.gz", "transforms/*", "jacobians/*", "split.csv")
"""Results that must be the same to the bit; tables and pages tell times."""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = options_parser(__doc__, METHODS, data_required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parse_options(parser)
    images = sorted((options.data / "images").glob("[!.]*.nii*"))
    rows: list[dict[str, Any]] = []
    if "kill" in options.methods:
        rows += kill_rows(images[:KILL_SUBJECTS], options.out, random.Random(options.seed))
    if "workers" in options.methods:
        rows += worker_rows(images[:WORKER_SUBJECTS], options.out)
    if "memory" in options.methods:
        rows += memory_rows(images, options.out)
    print(write_results("atlas_scale", rows, options.out))


def kill_rows(images: Sequence[Path], out: Path, rng: random.Random) -> list[dict[str, Any]]:
    """One build left alone, and one killed again and again."""
    table = cohort(images, out / "kill.csv")
    whole, killed = out / "whole", out / "killed"
    started = time.monotonic()
    run([str(table), "--out", str(whole), "--fresh"])
    seconds = time.monotonic() - started
    moments = sorted(rng.uniform(0.02, 0.98) * seconds for _ in range(KILLS))
    spent, rounds = 0.0, []
    for number, moment in enumerate(moments):
        fresh = ["--fresh"] if number == 0 else []
        # starting the program again takes time that is not part of the build
        pause = moment - spent + (2.0 if number else 0.0)
        kill_after([str(table), "--out", str(killed), *fresh], pause)
        spent = moment
        rounds.append(len(list((killed / "work" / "rounds").glob("*/round.json"))))
    run([str(table), "--out", str(killed)])
    differing = different_files(whole, killed)
    files = len(result_digests(whole))
    return [
        {
            "what": f"killed {KILLS} times, {len(images)} subjects",
            "measured": f"{len(differing)} of {files} files differ",
            "detail": "rounds complete at each kill: " + ", ".join(map(str, rounds)),
        }
    ]


def worker_rows(images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """The same build with one worker and with two."""
    table = cohort(images, out / "workers.csv")
    seconds = {}
    for workers in (1, 2):
        folder = out / f"workers-{workers}"
        run([str(table), "--out", str(folder), "--fresh", "--workers", str(workers)])
        seconds[workers] = round_seconds(folder)
    differing = different_files(out / "workers-1", out / "workers-2")
    return [
        {
            "what": f"two workers, {len(images)} subjects",
            "measured": f"{seconds[1] / seconds[2]:.2f} times one",
            "detail": f"rounds {seconds[1]:.0f} s and {seconds[2]:.0f} s; "
            f"{len(differing)} files differ",
        }
    ]


def memory_rows(images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Peak memory of builds of few and of many subjects."""
    peaks = {}
    for count in MEMORY_SUBJECTS:
        chosen = images[:count]
        table = cohort(chosen, out / f"memory-{count}.csv")
        folder = out / f"memory-{count}"
        arguments = [str(table), "--out", str(folder), "--fresh", "--rounds", "1"]
        peaks[len(chosen)] = run(arguments)
    few, many = peaks
    return [
        {
            "what": f"memory from {few} to {many} subjects",
            "measured": f"{peaks[many] / peaks[few]:.2f} times",
            "detail": f"{peaks[few] / 2**20:.0f} MB and {peaks[many] / 2**20:.0f} MB",
        }
    ]


def cohort(images: Sequence[Path], table: Path) -> Path:
    """A table of image files."""
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, [{"id": p.name.split(".")[0], "path": str(p.resolve())} for p in images])
    return table


def command(arguments: Sequence[str]) -> list[str]:
    """The command line of a build."""
    return [sys.executable, "-m", "pipelines", "atlas", "build", *arguments]


def run(arguments: Sequence[str]) -> float:
    """Build to the end; peak memory of the process, bytes.

    Raises:
        RuntimeError: If the build fails.
    """
    process = subprocess.Popen(command(arguments), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code not in (0, 3):  # 3: finished, with somebody left out
        raise RuntimeError(f"the build ended with code {code}: {' '.join(arguments)}")
    return usage.ru_maxrss * 1024.0  # Linux counts in KiB


def kill_after(arguments: Sequence[str], seconds: float) -> None:
    """Start a build and kill it and all its processes, unless it is done before."""
    process = subprocess.Popen(
        command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        process.wait(max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def round_seconds(folder: Path) -> float:
    """Seconds of all rounds, the start included."""
    with (folder / "history.csv").open(encoding="utf-8") as stream:
        return sum(float(row["seconds"]) for row in csv.DictReader(stream))


def result_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every result that must not depend on how the work was done."""
    paths = sorted({path for pattern in COMPARED for path in folder.glob(pattern)})
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in paths}


def different_files(first: Path, second: Path) -> list[str]:
    """Results that differ, or that only one of two folders has."""
    a, b = result_digests(first), result_digests(second)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


if __name__ == "__main__":
    main()
