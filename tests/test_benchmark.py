"""The benchmark's races, contestants, files and arguments, at sizes that take seconds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys

import pytest
import torch

from sparse_offline_rl.benchmarks import command
from sparse_offline_rl.benchmarks.bench import Bench
from sparse_offline_rl.benchmarks.contestant import Contestant, Stage, Unavailable, build
from sparse_offline_rl.benchmarks.contestants import acting, agents, layers, storage
from sparse_offline_rl.benchmarks.race import Entry, Outcome, race
from sparse_offline_rl.benchmarks.results import Table, format_cell, format_table, load_results
from sparse_offline_rl.benchmarks.scale import QUICK
from sparse_offline_rl.benchmarks.sections import agents as agents_section
from sparse_offline_rl.benchmarks.sections import constants
from sparse_offline_rl.benchmarks.sections import peers as peers_section
from sparse_offline_rl.benchmarks.sections.crossover import crossing
from sparse_offline_rl.errors import UserError

TINY = dataclasses.replace(QUICK, layer=48, hidden={"actor": (16, 12), "critic": (16, 12), "vae": (24, 24)})
BENCH = Bench(TINY, sys.executable, lambda line: None)


@pytest.fixture(autouse=True)
def torch_settings():
    """Contestants set threads and determinism of their process; here that is the process of the tests."""
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(deterministic)


def test_a_race_times_each_line_every_round_and_names_what_is_missing():
    stages = Entry("agents:stages", {"overrides": [*BENCH.overrides("bcq", "sparse", 0.8), "capture=false"]})
    lines = {
        "alone": (stages,),
        "missing": (Entry("no_such_module:training"),),
        "failing": (Entry("layers:layer", {"kind": "no such kind"}),),
        "too many cores": (Entry("agents:training", threads=10_000),),
        "no interpreter": (Entry("agents:training", python="no-such-python"),),
    }
    outcomes = race(lines, rounds=2, seconds=0.01)
    alone = outcomes["alone"]
    assert alone.missing is None and len(alone.rates) == 2 and alone.rate is not None and alone.rate > 1
    assert alone.peak_bytes > 1e7 and alone.start_seconds > 0
    assert 0 < alone.facts["kernels"] < alone.facts["whole update"]
    assert {"VAE", "critic", "actor", "target"} <= set(alone.facts)
    assert str(outcomes["missing"].missing).endswith("no_such_module is not installed")
    assert str(outcomes["failing"].missing).startswith("failed: ")
    assert outcomes["too many cores"].missing == "needs 10000 cores"
    assert "did not start" in str(outcomes["no interpreter"].missing)
    assert all(outcomes[name].rate is None for name in lines if name != "alone")


def test_a_stage_repeats_until_the_time_is_filled():
    calls = []
    stage = Stage(Contestant(lambda: calls.append(0), lambda: {"calls": len(calls)}))
    prepared = stage.answer({"prepare": 0.001})["calls"]
    before = len(calls)
    assert stage.answer({"run": "all"})["calls"] == prepared == len(calls) - before
    assert len(stage.answer({"run": "each"})["each_ns"]) == prepared
    assert stage.answer({"finish": True})["facts"] == {"calls": len(calls)}


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sparse_offline_rl.benchmarks.contestants.layers", None)
    with pytest.raises(Unavailable, match=r"layers is not installed"):
        build({"contestant": "layers:layer", "cores": [0], "arguments": {}})


@pytest.mark.parametrize("kind", [kind for kind in layers.KINDS if kind != "sparseprop"])
def test_every_layer_computes_the_same_before_it_is_timed(kind):
    for backward in (False, True):
        step = layers.layer(kind, batch=32, width=48, density=0.2, backward=backward, threads=1).step
        assert step is not None and step() is not None


class _Announced(Bench):
    """A bench whose races end as said here."""

    def race(self, lines, each=False):
        rates = {
            "ours, sparse engine, sparsity 0.95": 1200.0,
            "plain torch, dense": 100.0,
            "plain torch, dense, bfloat16": 150.0,
        }
        return {name: Outcome(rates=[rates[name]]) if name in rates else Outcome("not there") for name in lines}


@pytest.mark.parametrize("section", [agents_section, peers_section])
def test_ours_is_compared_with_the_faster_of_float32_and_bfloat16(section):
    rows = {row["who"]: row for row in section.measure(_Announced(TINY, sys.executable, print))[0].rows}
    sparse = rows["ours, sparse engine, sparsity 0.95"]
    assert (sparse["× plain torch"], sparse["× best plain torch"]) == (12, 8)
    assert rows["ours, dense engine"]["remark"] == "not there"
    assert rows["ours, dense engine"]["× best plain torch"] is None


def test_sizes_shrink_with_sparsity_and_keep_their_order():
    dense, sparse = (
        storage.sizes(BENCH.overrides("bcq", engine, s)).facts() for engine, s in (("dense", 0.0), ("sparse", 0.9))
    )
    for what in ("policy", "checkpoint"):
        assert sparse[what]["least"] < dense[what]["least"] < dense[what]["dense"]
        assert sparse[what]["file"] < dense[what]["file"]
        assert sparse[what]["COO"] < dense[what]["COO"]


def test_policies_act_within_bounds():
    pytest.importorskip("onnxruntime")
    for kind in ("policy file", "torch eager", "ONNX Runtime"):
        action = acting.latency(kind, BENCH.overrides("bcq", "sparse", 0.8)).step()
        assert action.shape == (agents.ACTIONS,) and abs(action).max() <= 1


def test_pruning_starts_from_the_same_weights_each_time():
    step = agents.pruning(BENCH.overrides("bcq", "dense", 0.8, prune="grasp")).step
    assert step is not None
    step()
    step()
    wide, usual = (agents.count_weights(BENCH.overrides("bcq", "dense", 0.0, factor=n)) for n in (2, 1))
    assert wide > 2 * usual


def test_constants_of_the_machine_are_measured():
    (table,) = constants.measure(dataclasses.replace(BENCH, scale=dataclasses.replace(TINY, seconds=0.01)))
    found = {row["constant"]: row["here"] for row in table.rows}
    assert {name for name, value in found.items() if value is None} <= {
        "MIN_WORK_FOR_THREADS", "BYTES_PER_NS", "SYNC_NS", "CACHE_BYTES"
    }  # fmt: skip
    times = {name: value for name, value in found.items() if value is not None and name.endswith("_NS")}
    assert all(math.isfinite(value) for value in times.values())
    # These two are differences of two times, which on a busy machine may be of either sign.
    assert all(value > 0 for name, value in times.items() if name not in ("ELEMENT_NS", "BACKWARD_NS"))


def test_crossing_lies_between_the_points():
    assert crossing([(0.1, 0.5), (0.2, 2.0)]) == pytest.approx(0.15)
    assert crossing([(0.1, 0.5), (0.2, 0.9)]) == "above 0.2"
    assert crossing([(0.1, 1.5)]) == "below 0.1"
    assert crossing([]) is None


def test_percentiles_and_cells():
    outcome = Outcome(each_ns=list(range(1000, 101_000, 1000)))
    assert outcome.percentile(50) == pytest.approx(51) and outcome.percentile(99) == pytest.approx(100)
    assert [format_cell(x) for x in (None, 1234.5, 1.2345, 7, "x")] == ["–", "1 234", "1.23", "7", "x"]


def _fake_sections(measured):
    def updates(bench):
        measured.append("updates")
        rows = [
            {"agent": "bcq", "threads": 1, "engine": e, "sparsity": s, "updates/s": 10 / (1 - s)}
            for e, s in (("dense", 0.0), ("sparse", 0.9))
        ]
        return [
            Table(
                "BCQ and BC",
                [*rows, {"agent": "bc", "threads": 1, "engine": "dense", "updates/s": None, "remark": "why"}],
            )
        ]

    def second(bench):
        measured.append("layer")
        return [Table("Layer", [{"library": "ours", "ms": 1.5}], ["A note."])]

    return {"updates": ("Updates", updates), "layer": ("One layer", second)}


def _run(sections, **values):
    return command.run(command.BenchmarkOptions.model_validate(values), sections)


def test_finished_sections_are_kept_and_only_measures_again(tmp_path, capsys):
    measured = []
    sections = _fake_sections(measured)
    _run(sections, out=tmp_path, only="updates")
    _run(sections, out=tmp_path)
    _run(sections, out=tmp_path, only="layer")
    assert measured == ["updates", "layer", "layer"]
    _run(sections, out=tmp_path, quick=True)
    assert measured[3:] == ["updates", "layer"]  # a quick result does not stand for a full one, nor the reverse
    assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    for part in (
        "`python scripts/benchmark.py only=layer quick=true`",
        "| ours | 1.5 |",
        "A note.",
        "quick run",
        "why",
        "| CPU |",
    ):
        assert part in text
    assert list(load_results(tmp_path / "benchmark.json")) == ["updates", "layer"]
    assert "only=updates measures it again" in capsys.readouterr().out


def test_tables_are_padded():
    text = format_table(Table("T", [{"a": "x", "b": 1.0}, {"a": "yyy", "b": None}]))
    assert text.splitlines()[3:6] == ["a    b", "x    1", "yyy  –"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["only=updtes"], "there is no section 'updtes'; the closest is 'updates'"),
        (["quick=perhaps"], "quick=perhaps cannot be used"),
        (["fast=true"], "there is no key 'fast'"),
        (["peers=no-such-python"], "peers=no-such-python: there is no such program"),
    ],
)
def test_bad_arguments_end_in_a_sentence(arguments, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([f"out={tmp_path}", *arguments])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_foreign_results_file_is_refused(tmp_path):
    (tmp_path / "benchmark.json").write_text(json.dumps({"format": "other"}), encoding="utf-8")
    with pytest.raises(UserError, match="does not hold results"):
        _run({}, out=tmp_path)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (None, "the whole: input should be a valid dictionary"),
        ({"layer": {"title": "Layers"}}, "layer.command: field required"),
    ],
)
def test_a_damaged_results_file_is_named_with_its_key(sections, sentence, tmp_path):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps({"format": "sparse_offline_rl.benchmark/1", "sections": sections}), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{path} is damaged ({sentence}): restore it, or move it away")):
        _run({}, out=tmp_path)
