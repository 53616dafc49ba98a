"""Whatever a user gets wrong ends in one sentence that names it, with nothing written."""

import pytest
from conftest import TINY

CASES = {
    "sparsity=1": (["sparsity=1"], ["sparsity=1", "less than 1"]),
    "sparsity<0": (["sparsity=-0.1"], ["sparsity=-0.1", "at least 0"]),
    "sparsity text": (["sparsity=high"], ["sparsity='high'", "sparsity=0.95"]),
    "sparsity nan": (["sparsity=nan"], ["sparsity=nan"]),
    "prune=none with sparsity": (["prune=none"], ["sparsity=0.8", "prune=none", "snip"]),
    "prune without sparsity": (["sparsity=0"], ["prune=snip", "sparsity=0"]),
    "fewer than one weight": (["sparsity=0.99999"], ["sparsity=0.99999", "fewer than one", "at most"]),
    "unknown group choice": (["agent=bqc"], ["agent=bqc", "'bc'"]),
    "unknown pruner": (["prune=grapsp"], ["prune=grapsp", "'grasp'"]),
    "unknown key": (["sparsty=0.5"], ["sparsty", "'sparsity'"]),
    "unknown nested key": (["eval.evry=5"], ["eval.evry", "'eval.every'"]),
    "added key": (["+foo=1"], ["foo"]),
    "not key=value": (["fast"], ["'fast'", "key=value"]),
    "zero updates": (["updates=0"], ["updates=0", "greater than or equal to 1"]),
    "updates as text": (["updates=many"], ["updates='many'", "integer"]),
    "batch larger than the data": (["batch_size=5000"], ["5000", "2000"]),
    "pruning batch larger than the data": (["prune.batch_size=5000"], ["5000", "2000"]),
    "unknown environment": (["env.id=Hoper-v5"], ["Hoper-v5", "Hopper"]),
    "discrete actions": (["dataset=minari", "dataset.id=none/none-v0"], ["none/none-v0"]),
    "no dataset id": (["dataset=minari"], ["dataset.id"]),
    "no dataset path": (["dataset=d4rl"], ["dataset.path"]),
    "missing file": (["dataset=d4rl", "dataset.path=/nowhere/x.hdf5"], ["/nowhere/x.hdf5"]),
    "no cuda": (["device=cuda"], ["device=cuda", "device=cpu"]),
    "unknown device": (["device=tpu"], ["device='tpu'", "'cpu'"]),
    "unknown engine": (["engine=fast"], ["engine='fast'", "'sparse'"]),
    "too many threads": (["threads=4096"], ["threads=4096", "between 1 and"]),
    "a sweep without -m": (["agent=bc,bcq"], ["agent=bc,bcq", "add -m"]),
    "a broken interpolation": (["run_dir=runs/${nothing}"], ["nothing"]),
    "infinite hyper-parameter": (["agent.kl_weight=inf"], ["agent.kl_weight=inf", "finite"]),
    "half a reference": (["env.reference_min_score=null"], ["env.reference_min_score=None", "both be null"]),
    "references upside down": (["env.reference_min_score=9999"], ["env.reference_min_score=9999", "below"]),
    "unknown launcher": (["hydra/launcher=nope"], ["nope"]),
    "empty hidden": (["agent.actor_hidden=[]"], ["agent.actor_hidden"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(cli, tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides, words = CASES[case]
    status, out, err = cli(*TINY, *overrides)
    assert status == 2
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], (word, lines[0])
    assert "Traceback" not in err + out
    assert list(tmp_path.rglob("*")) == []


def test_a_foreign_folder_is_left_alone(cli, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    status, _, err = cli(*TINY, f"run_dir={tmp_path}")
    assert status == 2
    assert "not a run folder" in err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_bad_job_in_a_sweep_is_named_and_the_others_run(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = cli("-m", *TINY, "updates=10", "eval.every=10", "sparsity=0.5,0.99999,0.8")
    assert status == 2
    assert "sparsity=0.99999" in err
    assert "Traceback" not in err
    assert out.count("finished: ") == 2
