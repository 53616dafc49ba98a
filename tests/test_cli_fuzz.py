"""Whatever stands on the command line of training: a run, or a sentence of ours with status 2, in bounded time."""

from __future__ import annotations

import contextlib
import io
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sparse_offline_rl.cli import train as train_cli
from sparse_offline_rl.training.session import Result

GOOD = [
    *("agent=bc", "prune=snip", "env=hopper", "dataset=minari", "experiment=quick", "sparsity=0.5", "seed=3"),
    *(
        "updates=7",
        "eval.every=2",
        "agent.actor_hidden=[3,4]",
        "agent.latent_dim=null",
        "dataset.path=a/b",
        "run_dir=x",
    ),
    *("device=cpu", "threads=1", "capture=false", "env.reference_min_score=-1.5", "log.every=1e3", "agent.twin=copy"),
    *("hydra.verbose=false", "hydra.job.name=x", "hydra.mode=MULTIRUN", "hydra/launcher=basic", "+foo=1", "++seed=2"),
    *(
        "seed=1,2",
        "sparsity=choice(0.5,0.9)",
        "seed=range(3)",
        "agent=glob(*)",
        "run_dir=${seed}",
        "run_dir=${oc.env:HOME}",
    ),
]
FLAGS = [
    "-m",
    "-r",
    "--help",
    "--cfg",
    "job",
    "all",
    "--resolve",
    "--package",
    "eval",
    "--info",
    "-sc",
    "-cn",
    "-cd",
    "--",
]
VALUES = [
    "",
    "null",
    "???",
    "nan",
    "-1",
    "1e999",
    "9" * 40,
    "[",
    "{a:1}",
    "[[1]]",
    "${x}",
    "${seed}",
    "'",
    "ü",
    "\0",
    "a,b",
    "~",
]

pieces = st.one_of(
    st.sampled_from(GOOD),
    st.sampled_from(FLAGS),
    st.builds("{}={}".format, st.sampled_from([text.partition("=")[0] for text in GOOD]), st.sampled_from(VALUES)),
    st.builds(
        lambda text, at, new: text[:at] + new + text[at + 1 :],
        st.sampled_from(GOOD),
        st.integers(0, 20),
        st.text(max_size=2),
    ),
    st.text(max_size=12),
)


@pytest.fixture
def no_training(monkeypatch, tmp_path):
    """Every run is complete at once, and what Hydra writes goes to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    summary = {"normalized_score": None, "nonzero_weights": 1, "total_weights": 1, "sparsity": 0.0, "return_mean": 0.0}
    summary |= {"return_std": 0.0, "updates_per_second": 1.0, "train_seconds": 1.0, "policy_bytes": 1}
    summary |= {"policy_dense_bytes": 1, **dict.fromkeys(("agent", "env", "dataset", "prune", "engine"), "x")}
    monkeypatch.setattr(train_cli, "run", lambda _: Result("already complete", summary, 1))


@settings(max_examples=40, deadline=timedelta(seconds=60), suppress_health_check=list(HealthCheck))
@given(arguments=st.lists(pieces, max_size=4))
@example(arguments=["-sc", "install=bash"])
@example(arguments=["--experimental-rerun", "x"])
@example(arguments=["hydra.verbose=[1]"])
@example(arguments=["hydra=1"])
@example(arguments=["-m", "seed=range(0,1e400)"])
def test_a_run_or_a_sentence(no_training, arguments):
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["train.py", *arguments])
        patch.setenv("COMP_LINE", "train.py " + " ".join(arguments).replace("\0", ""))
        try:
            train_cli.main()
        except SystemExit as end:
            status = end.code or 0
    message = err.getvalue()
    assert "Traceback" not in message + out.getvalue()
    assert status in (0, 2)
    assert status == 0 or message.startswith("error: "), (status, message)
    assert len(message) < 2000 + 3 * sum(map(len, arguments)), "a sentence, not a listing"
    assert [path.name for path in Path().iterdir()] in ([], ["runs"])
