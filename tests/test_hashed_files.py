"""Hashed networks in files: policies, small ones, hostile ones, checkpoints, and what reports say of runs with them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_damage import assert_a_changed_byte_is_refused_or_read, measured_refusal, refusal
from policy_samples import (
    assert_follows_rule,
    assert_same,
    edit_header,
    halfcheetah_policy,
    hashed_policy,
    make_policy,
    signed,
)
from test_checkpoint_claims import repaired

from sparse_offline_rl.cli import compress as compress_cli
from sparse_offline_rl.cli import report as report_cli
from sparse_offline_rl.compression.compress import quantized, share
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.policy.content import PolicyLayer
from sparse_offline_rl.policy.format import read_policy, write_policy
from sparse_offline_rl.policy.runtime import Policy, load_policy
from sparse_offline_rl.reports.store import read_runs, write_store
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint

HASHED = [it for it in TINY if it not in ("prune=snip", "sparsity=0.8")] + ["prune=hashed", "sparsity=0.95"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hashed")


@pytest.fixture(scope="module", params=[None, 8], ids=["floats", "8 bits"])
def sound(folder, request):
    """The bytes of a small sound file."""
    write_policy(folder / "sound.sorl", hashed_policy(hidden=(8, 6), bits=request.param))
    return (folder / "sound.sorl").read_bytes()


@pytest.mark.parametrize("bits", [None, 4, 16])
@pytest.mark.parametrize("kind", ["bcq", "bc", "actor"])
def test_a_hashed_policy_comes_back_bit_for_bit_and_acts(tmp_path, kind, bits):
    content = hashed_policy(kind, bits=bits)
    write_policy(tmp_path / "p.sorl", content)
    assert (tmp_path / "p.sorl").read_bytes()[8] == 5
    assert_same(content, read_policy(tmp_path / "p.sorl"))
    rng = np.random.default_rng(1)
    states = rng.normal(size=(4, content.observation_dim)).astype(np.float32)
    noise = rng.normal(size=(4 * content.acting.candidates, content.acting.latent_dim)).astype(np.float32)
    assert_follows_rule(content, states, noise, load_policy(tmp_path / "p.sorl").act(states, noise))


def test_hashed_and_pruned_layers_stand_in_one_file(tmp_path):
    pruned, hashed = make_policy("bcq", 0.3), hashed_policy("bcq")
    content = replace(hashed, networks={**hashed.networks, "actor": pruned.networks["actor"]})
    write_policy(tmp_path / "p.sorl", content)
    assert_same(content, read_policy(tmp_path / "p.sorl"))


@pytest.mark.parametrize("kind", ["bcq", "bc"])
def test_a_file_is_about_as_small_as_its_values(tmp_path, kind):
    dense = halfcheetah_policy(kind, 1.0)

    def hashed(layer):
        hashing = LayerHash(*layer.weight.shape, max(1, round(0.05 * layer.weight.size)), 3)
        return replace(layer, weight=hashing.expand(hashing.last(layer.weight)), hashing=hashing)

    networks = {
        name: replace(it, hidden=tuple(map(hashed, it.hidden)), heads=tuple(map(hashed, it.heads)))
        for name, it in dense.networks.items()
    }
    size = write_policy(tmp_path / "p.sorl", replace(dense, networks=networks))
    layers = [layer for network in networks.values() for layer in network.layers]
    floats = sum(len(vector) for layer in layers for vector, _ in layer.vectors)
    # 24 bits of sign and fraction, and some of exponent; a header of names and sizes. Pruned alike, masks come on top.
    assert 3 * floats < size < 3.4 * floats + 800
    assert size < write_policy(tmp_path / "q.sorl", halfcheetah_policy(kind, 0.05)) < dense.dense_bytes / 16


def test_weights_that_do_not_share_are_not_written(tmp_path):
    content = hashed_policy("actor", hidden=())
    layer = content.networks["actor"].heads[0]
    untied = replace(layer, weight=layer.weight + np.arange(15, dtype=np.float32).reshape(3, 5))
    networks = {"actor": replace(content.networks["actor"], heads=(untied,))}
    with pytest.raises(ValueError, match="weights that share a value by their hash differ"):
        write_policy(tmp_path / "p.sorl", replace(content, networks=networks))
    assert not list(tmp_path.iterdir())


def test_a_hash_must_fit_its_layer():
    weight, bias = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    whole = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="a hash of another shape"):
        PolicyLayer("out", weight, whole, bias, hashing=LayerHash(3, 2, 1, 0))
    with pytest.raises(ValueError, match="a hash, and pruned weights"):
        PolicyLayer("out", 0 * weight, ~whole, bias, hashing=LayerHash(2, 3, 1, 0))


def _first(change):
    return lambda header: header["networks"][0]["hidden"][0].update(change)


@pytest.mark.parametrize(
    "hashed",
    [{"values": it, "seed": 1} for it in (0, -1, 2**27, 2**40, 1.0, True, None, "3", 9)]
    + [{"values": 9, "seed": it} for it in (-1, 2**32, 0.5, None, "1", False)]
    + [{}, [], None, "text", 5, {"values": 3}, {"seed": 3}],
    ids=str,
)
def test_claims_of_hashes_are_checked_before_memory_is_taken(folder, sound, hashed):
    assert measured_refusal(folder, edit_header(sound, _first({"hashed": hashed})))[1] < 2_000_000


@pytest.mark.parametrize("sizes", [{"in": 2**20, "out": 2**20}, {"out": 2**26}, {"in": 0}, {"out": 2**27}, {"in": -1}])
def test_claims_of_sizes_are_checked_before_memory_is_taken(folder, sound, sizes):
    assert measured_refusal(folder, edit_header(sound, _first(sizes)))[1] < 2_000_000


@pytest.mark.parametrize("version", [2, 3])
def test_an_older_version_has_no_hashes(folder, sound, version):
    body = sound[:8] + version.to_bytes(4, "little") + sound[12:-32]
    refusal(folder, signed(body))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_changed_byte_below_a_right_checksum_is_refused_or_read(folder, sound, data):
    assert_a_changed_byte_is_refused_or_read(folder, sound, data)


def test_compress_puts_the_values_on_steps(tmp_path):
    content = hashed_policy("bcq", 0.3, hidden=(60, 50))
    small = quantized(content, 8)
    for name, network in small.networks.items():
        for layer, before in zip(network.layers, content.networks[name].layers, strict=True):
            assert layer.hashing == before.hashing and layer.weight_levels.bits == 8
            assert np.abs(layer.weight - before.weight).max() <= np.abs(before.weight).max() / 100
    sizes = [write_policy(tmp_path / name, it) for name, it in (("before", content), ("after", small))]
    assert sizes[1] < 0.45 * sizes[0]
    assert_same(small, read_policy(tmp_path / "after"))
    states = np.random.default_rng(0).normal(size=(5, content.observation_dim)).astype(np.float32)
    noise = np.zeros((5 * 7, content.acting.latent_dim), np.float32)
    assert np.abs(Policy(small).act(states, noise) - Policy(content).act(states, noise)).max() < 0.3


def test_clusters_of_a_hashed_policy_are_one_sentence():
    with pytest.raises(UserError, match="clusters=16: weights of network decoder share values already, by a hash"):
        share(hashed_policy("bc"), 16)


# A run.


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run_dir(runs, cli):
    """A finished run of a few updates, the same for all tests."""
    path = runs / "hashed"
    if not path.exists():
        status, _, err = cli(*HASHED, "updates=10", "eval.every=10", f"run_dir={path}")
        assert status == 0, err
    return path


WRONG = {
    "values beyond the weights": lambda h, a: h["networks"]["actor"][0]["hashed"].update(values=10**6),
    "no values": lambda h, a: h["networks"]["actor"][0]["hashed"].update(values=0),
    "one value more": lambda h, a: h["networks"]["actor"][0]["hashed"].update(values=33),
    "a seed as text": lambda h, a: h["networks"]["actor"][0]["hashed"].update(seed="7"),
    "a seed beyond 32 bits": lambda h, a: h["networks"]["actor"][0]["hashed"].update(seed=2**32),
    "no seed": lambda h, a: h["networks"]["actor"][0]["hashed"].pop("seed"),
    "no hash": lambda h, a: h["networks"]["actor"][0].update(hashed=None),
    "a billion weights": lambda h, a: h["networks"]["actor"][0].update(shape=[2**20, 2**20]),
    "a layer that is not hashed": lambda h, a: h["networks"]["actor"][0].pop("hashed"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_claims_of_a_checkpoint_are_a_sentence(run_dir, tmp_path, wrong):
    path = tmp_path / "state.safetensors"
    path.write_bytes(checkpoint_path(run_dir).read_bytes())
    repaired(path, WRONG[wrong])
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


def test_a_checkpoint_holds_values_and_no_masks(run_dir):
    facts = json.loads((run_dir / "summary.json").read_text())
    state = load_checkpoint(checkpoint_path(run_dir)).state
    floats = sum(len(vector) for network in state.networks.values() for vector in network.vectors().values())
    assert sum(sum(it.topology.stored.values()) for it in state.networks.values()) == facts["stored_weights"]
    assert 4 * floats < facts["checkpoint_bytes"] < 4 * floats + 30_000


def test_compress_on_a_run(run_dir, capsys):
    compress_cli.main([f"run_dir={run_dir}", "episodes=1"])
    assert "times smaller" in capsys.readouterr().out
    assert (run_dir / "policy" / "compressed.sorl").read_bytes()[8] == 5


@pytest.mark.parametrize("finetune", ["finetune=0", "finetune=5"])
def test_clusters_on_a_run_are_one_sentence(run_dir, capsys, finetune):
    with pytest.raises(SystemExit) as end:
        compress_cli.main([f"run_dir={run_dir}", "clusters=4", "episodes=0", finetune])
    assert end.value.code == 2 and "share values already, by a hash" in capsys.readouterr().err


@pytest.fixture
def both(run_dir, runs, cli):
    """The folder of that run and of one that was pruned alike."""
    pruned = ["prune=snip", "updates=10", "eval.every=10", f"run_dir={runs / 'pruned'}"]
    status, _, err = cli(*[it for it in HASHED if it != "prune=hashed"], *pruned)
    assert status == 0, err
    return runs


def test_a_report_says_what_is_kept_and_what_is_stored(both, tmp_path):
    report_cli.main([f"runs={both}", f"out={tmp_path / 'report'}"])
    with (tmp_path / "report" / "cost.csv").open(newline="") as file:
        rows = {row["experiment"].split()[0]: row for row in csv.DictReader(file)}
    shares = {name: (row["weights kept"], row["values stored"]) for name, row in rows.items()}
    kept, stored = shares["hashed"]
    assert float(kept) == 1.0 and float(stored) == pytest.approx(0.05, abs=1e-3)
    assert float(shares["snip"][0]) == float(shares["snip"][1]) == pytest.approx(0.05, abs=1e-3)
    found, _ = read_runs(both)
    write_store(found, tmp_path / "store")
    again, notes = read_runs(tmp_path / "store")
    assert notes == [] and [(it.summary or {}).get("stored_weights") for it in again] == [
        (it.summary or {}).get("stored_weights") for it in found
    ]


def test_reports_without_hashed_runs_have_no_such_columns(both, tmp_path):
    found, _ = read_runs(both)
    write_store([it for it in found if it.value("prune") != "hashed"], tmp_path)
    assert "stored_weights" not in (tmp_path / "runs.csv").read_text()
