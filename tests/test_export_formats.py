"""ONNX, C99 and dense exports do what the policy does."""

from __future__ import annotations

import builtins
import ctypes
import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from policy_samples import assert_follows_rule, compressed_policy, hashed_policy, make_layer, make_policy
from safetensors.numpy import load_file
from safetensors.numpy import safe_open as open_safetensors

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.export.c99 import c_float, export_c
from sparse_offline_rl.export.dense import export_dense
from sparse_offline_rl.export.onnx import export_onnx
from sparse_offline_rl.export.vectors import test_noise as lcg_noise
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.policy.runtime import Policy

GCC = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def inputs(content, count, seed=3):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count * content.acting.candidates, content.acting.latent_dim)).astype(np.float32)
    return rng.normal(size=(count, content.observation_dim)).astype(np.float32), noise


def changed(content, **fields):
    return PolicyContent(**{**vars(content), **fields})


def collapsed(name, **options):
    """A policy one of whose networks gives the same for every input, so that candidates tie where it ranks."""
    whole, empty = make_policy("bcq", 0.2, **options), make_policy("bcq", 0.0, **options)
    return changed(whole, networks={**whole.networks, name: empty.networks[name]})


def unranked():
    content = make_policy("bcq", 0.2)
    networks = {name: content.networks[name] for name in ("decoder", "actor")}
    return changed(content, acting=replace(content.acting, rank=None, candidates=1), networks=networks)


POLICIES = {
    "actor": make_policy("actor", 0.2),
    "actor, all pruned": make_policy("actor", 0.0),
    "decoder collapsed": collapsed("decoder"),
    "perturbation collapsed": collapsed("actor"),
    "critic collapsed": collapsed("critic1"),
    "perturbed and not ranked": unranked(),
    "bc": make_policy("bc", 0.2),
    "bcq": make_policy("bcq", 0.2),
    "dense": make_policy("bcq", 1.0),
    "at the bounds": make_policy("bcq", 0.5, perturbation=40.0),
    "bc, all pruned": make_policy("bc", 0.0),
    "bcq, all pruned": make_policy("bcq", 0.0),
    "bcq, shared weights": compressed_policy(),
    "bc, 4 bits": compressed_policy("bc", 4),
    "actor, 16 bits": compressed_policy("actor", 16),
    "bcq, hashed": hashed_policy(),
    "bc, hashed, 8 bits": hashed_policy("bc", bits=8),
    "linear layers": make_policy("bcq", 0.2, linear=["hidden1"]),
    "linear layers, dense": make_policy("actor", 1.0, linear=["hidden0"]),
    "linear layers, 8 bits": compressed_policy("bcq", 8, linear=["hidden0", "hidden1"]),
    "linear layers, all pruned": make_policy("bc", 0.0, linear=["hidden0"]),
    "shared weights, all pruned": compressed_policy("bc", density=0.0),
}


def onnx_inputs(content, states, noise):
    return {"observation": states, **({"noise": noise} if content.acting.latent_dim else {})}


def onnx_session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("count", [1, 6])
def test_onnx_runtime_acts_alike(tmp_path, name, count):
    content = POLICIES[name]
    (path,) = export_onnx(content, tmp_path / "policy.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    states, noise = inputs(content, count)
    (actions,) = onnx_session(path).run(["action"], onnx_inputs(content, states, noise))
    assert_follows_rule(content, states, noise, actions)
    assert_follows_rule(content, states, noise, Policy(content).act(states, noise))


def test_onnx_takes_any_number_of_candidates(tmp_path):
    content = make_policy("bcq", 0.3)
    session = onnx_session(export_onnx(content, tmp_path / "policy.onnx")[0])
    fewer = changed(content, acting=replace(content.acting, candidates=2))
    states, noise = inputs(fewer, 4)
    (actions,) = session.run(["action"], {"observation": states, "noise": noise})
    assert_follows_rule(fewer, states, noise, actions)


def test_onnx_says_what_it_is(tmp_path):
    model = onnx.load(export_onnx(make_policy("bcq"), tmp_path / "policy.onnx")[0])
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["env_id"] == "HalfCheetah-v5" and facts["candidates"] == "7" and facts["prune"] == "snip"
    assert [entry.name for entry in model.graph.input] == ["observation", "noise"]


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"sparse-offline-rl\[onnx\]"):
        export_onnx(make_policy(), tmp_path / "policy.onnx")


def compile_library(source):
    library = source.with_suffix(".so")
    subprocess.run(
        [*GCC, "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True, cwd=source.parent
    )
    return ctypes.CDLL(str(library))


def c_actions(library, content, states, noise):
    kind = ctypes.POINTER(ctypes.c_float)
    actions = np.empty((len(states), content.action_dim), np.float32)
    for i, action in enumerate(actions):
        own = np.ascontiguousarray(noise[i * content.acting.candidates : (i + 1) * content.acting.candidates])
        library.policy_act(*(array.ctypes.data_as(kind) for array in (states[i], own, action)))
    return actions


@pytest.mark.parametrize("name", POLICIES)
def test_c_acts_alike(tmp_path, name):
    content = POLICIES[name]
    source, header = export_c(content, tmp_path / "policy.c")
    assert header.name == "policy.h"
    library = compile_library(source)
    states, noise = inputs(content, 20)
    assert_follows_rule(content, states, noise, c_actions(library, content, states, noise))
    assert library.policy_self_test() == 0


@pytest.mark.parametrize("lanes", [1, 3, 8, 16])
def test_c_candidates_at_a_time_change_nothing(tmp_path, lanes):
    content = make_policy("bcq", 0.3, candidates=10)
    source, _ = export_c(content, tmp_path / "policy.c")
    text = source.read_text()
    source.write_text(f"#define POLICY_LANES {lanes}\n{text}")
    states, noise = inputs(content, 5)
    assert_follows_rule(content, states, noise, c_actions(compile_library(source), content, states, noise))


def test_c_main_runs_the_self_test_and_notices_damage(tmp_path):
    source, _ = export_c(make_policy("bcq", 0.3), tmp_path / "policy.c")
    command = [*GCC, "-O0", "-DPOLICY_MAIN", source.name, "-o", "main", "-lm"]
    subprocess.run(command, check=True, cwd=tmp_path)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "4 self-tests passed\n")
    source.write_text(source.read_text().replace("#define POLICY_LATENT_CLIP 0.5f", "#define POLICY_LATENT_CLIP 0.4f"))
    subprocess.run(command, check=True, cwd=tmp_path)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.startswith("self-test")


@pytest.mark.parametrize(("name", "shared"), [("bcq", 0), ("bcq, shared weights", 1), ("bc, 4 bits", 1)])
def test_c_stores_an_index_where_weights_are_shared(tmp_path, name, shared):
    source, _ = export_c(POLICIES[name], tmp_path / "policy.c")
    text = source.read_text()
    assert f"#define POLICY_SHARED {shared} " in text
    assert ("const uint8_t policy_propose_1_index[]" in text) == bool(shared)
    assert ("const float policy_propose_1_weight[]" in text) != bool(shared)


def test_c_generator_is_the_exported_one(tmp_path):
    export_c(make_policy("bc"), tmp_path / "policy.c")
    caller = tmp_path / "caller.c"
    caller.write_text('#include "policy.c"\nvoid noise(uint32_t seed, float *out) { policy_test_noise(seed, out); }\n')
    values = np.empty(6, np.float32)
    compile_library(caller).noise(ctypes.c_uint32(5), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
    assert np.array_equal(values, lcg_noise(5, 6))


@pytest.mark.parametrize("env_id", ["mujoco/hopper/*", "*/ int x; /*", "what??/\n#error", "é\\", '"'])
def test_c_compiles_whatever_the_environment_is_called(tmp_path, env_id):
    source, _ = export_c(changed(make_policy("bc"), env_id=env_id), tmp_path / "my-policy.2.c")
    assert compile_library(source).policy_self_test() == 0


def test_c_refuses_what_it_cannot_name_or_hold(tmp_path):
    with pytest.raises(UserError, match="cannot name a C file"):
        export_c(make_policy("bc"), tmp_path / "my policy.c")
    rng, wide = np.random.default_rng(0), 2**16 + 1
    first = PolicyLayer("hidden0", np.ones((wide, 3), np.float32), np.ones((wide, 3), bool), np.zeros(wide, np.float32))
    network = PolicyNetwork("decoder", (first,), (make_layer(rng, "out", wide, 1, 1.0),))
    content = make_policy("bc", state=1, action=1, hidden=())
    with pytest.raises(UserError, match="has 65537 units"):
        export_c(changed(content, networks={"decoder": network}), tmp_path / "policy.c")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, -1e-45, 1.17549435e-38, 3.4028235e38, 0.1, 16777216.0, 1e10, -123.456]
)
def test_c_constants_are_exact(value):
    text = c_float(value)
    assert text.endswith("f") and ("." in text or "e" in text)
    assert np.float32(float(text[:-1])).tobytes() == np.float32(value).tobytes()


def test_dense_tensors_are_the_weights(tmp_path):
    content = make_policy("bcq", 0.2)
    (path,) = export_dense(content, tmp_path / "policy.safetensors")
    tensors = load_file(path)
    for network in content.networks.values():
        for layer in network.layers:
            assert tensors[f"{network.name}/{layer.name}/weight"].tobytes() == layer.weight.tobytes()
            assert tensors[f"{network.name}/{layer.name}/bias"].tobytes() == layer.bias.tobytes()
    assert np.array_equal(tensors["observation_std"], content.observation_std)
    with open_safetensors(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["policy"])
    assert facts["env_id"] == "HalfCheetah-v5" and facts["acting"]["candidates"] == 7
    assert facts["networks"]["actor"] == {"hidden": ["hidden0", "hidden1"], "heads": ["head0"]}


def test_gcc_is_here():
    assert shutil.which("gcc"), "the tests of the C export need gcc"
