"""``scripts/export.py``: what it writes where, and one sentence with status 2 for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from policy_samples import make_policy

from sparse_offline_rl.cli import export
from sparse_offline_rl.policy.format import write_policy

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run_dir(tmp_path):
    write_policy(tmp_path / "run" / "policy" / "policy.sorl", make_policy(hidden=(6, 5)))
    return tmp_path / "run"


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
        status = 0
        try:
            export.main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("kind", "names"), [("onnx", ["policy.onnx"]), ("c", ["policy.c", "policy.h"]), ("dense", ["policy.safetensors"])]
)
def test_files_go_to_the_run_folder(command, run_dir, kind, names):
    status, out, err = command(f"run_dir={run_dir}", f"to={kind}")
    assert (status, err) == (0, "")
    assert sorted(path.name for path in (run_dir / "export").iterdir()) == names
    for name in names:
        path = run_dir / "export" / name
        assert f"wrote {path}, {path.stat().st_size} bytes" in out


def test_out_may_be_a_folder_or_a_file(command, run_dir, tmp_path):
    assert command(f"run_dir={run_dir / 'policy'}", "to=c", f"out={tmp_path / 'device'}")[0] == 0
    assert (tmp_path / "device" / "policy.h").exists()
    assert command(f"run_dir={run_dir}", "to=onnx", f"out={tmp_path / 'hopper.onnx'}")[0] == 0
    assert (tmp_path / "hopper.onnx").is_file()


def test_a_policy_file_of_its_own_exports_beside_itself(command, tmp_path, monkeypatch):
    write_policy(tmp_path / "mine.sorl", make_policy("bc"))
    monkeypatch.chdir(tmp_path)
    assert command("run_dir=mine.sorl", "to=dense")[0] == 0
    assert (tmp_path / "export" / "policy.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run_dir={run}", "to=onx"], "to=onx: there is no such format; the closest is 'onnx'."),
        (["run_dir={run}", "to=tflite"], "there is c, dense, onnx"),
        (["run_dir={run}", "format=c"], "there is no key 'format'"),
        (["rundir={run}", "to=c"], "the closest is 'run_dir'"),
        (["run_dir={run}"], "to is missing"),
        (["run_dir={run}/missing", "to=c"], "there is no"),
        (["run_dir={run}/..", "to=c"], "holds no policy/policy.sorl"),
        (["run_dir={run}", "to=c", "out={run}/x.onnx"], "does not end in .c"),
        (["run_dir={run}", "to=c", "out={run}/notes.txt/here"], "cannot be written"),
        (["run_dir={run}/notes.txt", "to=c"], "is not a usable policy file"),
    ],
)
def test_mistakes_end_with_a_sentence(command, run_dir, arguments, sentence):
    (run_dir / "notes.txt").write_text("Nothing here is a policy, though it is long enough to be one.")
    status, out, err = command(*(argument.format(run=run_dir) for argument in arguments))
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert sentence in err
    assert not (run_dir / "export").exists()


def test_the_script_runs(run_dir):
    script = [sys.executable, str(ROOT / "scripts" / "export.py"), f"run_dir={run_dir}", "to=dense"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "policy.safetensors" in done.stdout
