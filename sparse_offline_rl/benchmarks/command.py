"""``python scripts/benchmark.py …``: measures, shows and keeps the sections."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import Field

from sparse_offline_rl.benchmarks.bench import Bench, Measure
from sparse_offline_rl.benchmarks.machine import describe_machine, load
from sparse_offline_rl.benchmarks.plot import plot_updates
from sparse_offline_rl.benchmarks.results import (
    SectionResult,
    format_table,
    load_results,
    save_results,
    write_markdown,
)
from sparse_offline_rl.benchmarks.scale import FULL, QUICK
from sparse_offline_rl.benchmarks.sections import (
    acting,
    agents,
    constants,
    costs,
    crossover,
    files,
    layer,
    masks,
    peers,
    updates,
)
from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import closest, user_errors
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.training.console import say

SECTIONS: dict[str, tuple[str, Measure]] = {
    "updates": (updates.TITLE, updates.measure),
    "layer": (layer.TITLE, layer.measure),
    "peers": (peers.TITLE, peers.measure),
    "agents": (agents.TITLE, agents.measure),
    "acting": (acting.TITLE, acting.measure),
    "files": (files.TITLE, files.measure),
    "costs": (costs.TITLE, costs.measure),
    "masks": (masks.TITLE, masks.measure),
    "crossover": (crossover.TITLE, crossover.measure),
    "constants": (constants.TITLE, constants.measure),
}


class BenchmarkOptions(Options):
    """Measure speed, size and memory against dense torch and other libraries.

    Finished sections are kept: the same command again goes on where it was interrupted.
    """

    only: str = Field(
        "", description=f"measure these sections again, e.g. only=updates,layer; of {', '.join(SECTIONS)}"
    )
    quick: bool = Field(False, description="few and short repetitions: shows that all works, gives no results")
    out: Path = Field(Path("results"), description="folder for benchmark.json, benchmark.md and benchmark.png")
    peers: str = Field(sys.executable, description="the python that has d3rlpy and sparseprop, if it is another one")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ``arguments`` are those of the command line by default."""
    with user_errors():
        run(parse_options(BenchmarkOptions, sys.argv[1:] if arguments is None else arguments))


def run(options: BenchmarkOptions, sections: Mapping[str, tuple[str, Measure]] = SECTIONS) -> dict[str, SectionResult]:
    """Measure what is asked for or not finished, write the files after each section, and return all sections."""
    path = options.out / "benchmark.json"
    results, machine = load_results(path), describe_machine()
    wanted = _wanted(options, sections, results, machine)
    bench = Bench(QUICK if options.quick else FULL, _interpreter(options.peers), say)
    for name in sections:
        if name not in wanted:
            continue
        title, measure = sections[name]
        say(f"{name}: {title}")
        before, begin = load(), time.perf_counter()
        tables = measure(bench)
        seconds = time.perf_counter() - begin
        finished = datetime.now().isoformat(" ", "seconds")
        results[name] = SectionResult(
            title, _command(options, name), machine, options.quick, before, seconds, finished, tables
        )
        for table in tables:
            say(format_table(table))
        _write(options.out, {key: results[key] for key in sections if key in results})
    say(f"written to {path}, {path.with_suffix('.md').name} and {path.with_suffix('.png').name}")
    return results


def _wanted(
    options: BenchmarkOptions,
    sections: Mapping[str, object],
    results: Mapping[str, SectionResult],
    machine: Mapping[str, str],
) -> list[str]:
    """The sections that ``only`` names, or those without a result of this kind on this machine."""
    named = [name for name in options.only.split(",") if name]
    for name in named:
        if name not in sections:
            raise UserError(f"only={options.only}: there is no section '{name}'; {closest(name, sections)}.")
    if named:
        return named
    wanted = []
    for name in sections:
        result = results.get(name)
        if result is not None and result.quick == options.quick and result.machine == machine:
            say(f"{name}: finished {result.finished}; only={name} measures it again")
        else:
            wanted.append(name)
    return wanted


def _interpreter(given: str) -> str:
    found = shutil.which(given)
    if found is None:
        raise UserError(
            f"peers={given}: there is no such program; give the python of an environment with torch and d3rlpy."
        )
    return found


def _command(options: BenchmarkOptions, name: str) -> str:
    quick = " quick=true" if options.quick else ""
    peers = " peers=PYTHON" if options.peers != sys.executable else ""
    return f"python scripts/benchmark.py only={name}{quick}{peers}"


def _write(folder: Path, results: Mapping[str, SectionResult]) -> None:
    save_results(folder / "benchmark.json", results)
    write_markdown(folder / "benchmark.md", results)
    if "updates" in results:
        plot_updates(folder / "benchmark.png", results["updates"])
