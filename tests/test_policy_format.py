"""The policy file: exact, small, and refused with a sentence when anything is wrong with it."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_damage import measured_refusal, refusal
from policy_samples import assert_same, compressed_policy, edit_header, halfcheetah_policy, make_policy, signed

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.policy.format import read_policy, write_policy
from sparse_offline_rl.policy.header import MAX_POSITIONS
from sparse_offline_rl.types import Acting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def sound(folder):
    """The bytes of a small sound file."""
    write_policy(folder / "sound.sorl", make_policy(hidden=(6, 5)))
    return (folder / "sound.sorl").read_bytes()


@st.composite
def bc_policies(draw):
    """BC policies of any bits, densities and widths, zero width included."""
    widths = [3, *draw(st.lists(st.integers(0, 5), max_size=3)), 2]
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        bits = draw(
            st.lists(st.integers(0, 2**32 - 1), min_size=(inputs + 1) * outputs, max_size=(inputs + 1) * outputs)
        )
        values = np.array(bits, np.uint32).view(np.float32)
        mask = np.array(draw(st.lists(st.booleans(), min_size=inputs * outputs, max_size=inputs * outputs)), bool)
        weight = np.zeros(inputs * outputs, np.float32)
        weight[mask] = values[: inputs * outputs][mask]
        shape = (outputs, inputs)
        layers.append(PolicyLayer(f"layer {i}", weight.reshape(shape), mask.reshape(shape), values[inputs * outputs :]))
    ones = np.ones(2, np.float32)
    hidden = draw(st.sets(st.sampled_from([it.name for it in layers[:-1]]))) if len(layers) > 1 else ()
    decoder = PolicyNetwork("decoder", tuple(layers[:-1]), tuple(layers[-1:]), frozenset(hidden))
    texts = st.text(max_size=10)
    metadata = draw(st.dictionaries(texts, texts, max_size=3))
    acting = Acting("decoder", latent_dim=1, latent_clip=draw(st.floats(0, 1e300)))
    return PolicyContent(acting, {"decoder": decoder}, ones, ones, -ones, ones, draw(texts), metadata)


@settings(max_examples=150, deadline=None)
@given(bc_policies())
def test_any_policy_comes_back_bit_for_bit(folder, content):
    size = write_policy(folder / "any.sorl", content)
    assert size == (folder / "any.sorl").stat().st_size
    assert_same(content, read_policy(folder / "any.sorl"))


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (make_policy("bc"), 2),
        (compressed_policy("bc", 8), 3),
        (make_policy("bc", linear=["hidden0"]), 4),
        (compressed_policy("bc", linear=["hidden1"]), 4),
    ],
)
def test_a_file_has_the_oldest_version_that_can_hold_it(tmp_path, content, version):
    write_policy(tmp_path / "policy.sorl", content)
    assert int.from_bytes((tmp_path / "policy.sorl").read_bytes()[8:12], "little") == version
    assert_same(content, read_policy(tmp_path / "policy.sorl"))


@pytest.mark.parametrize("group", ["hidden", "heads"])
def test_wrong_claims_about_relu_are_refused(folder, group):
    write_policy(folder / "linear.sorl", make_policy("bc", hidden=(6, 5), linear=["hidden0"]))

    def claim(header):
        header["networks"][0][group][-1]["linear"] = "perhaps" if group == "hidden" else True

    sentence = refusal(folder, edit_header((folder / "linear.sorl").read_bytes(), claim))
    assert ("lacks a valid linear" if group == "hidden" else "says of a head that it is linear") in sentence


@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_bcq_comes_back_bit_for_bit(tmp_path, density):
    content = make_policy("bcq", density)
    write_policy(tmp_path / "a" / "policy.sorl", content)
    assert_same(content, read_policy(tmp_path / "a" / "policy.sorl"))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["policy.sorl"]


def test_special_values_come_back(tmp_path):
    values = np.array([[np.nan, -0.0, np.inf, 1e-45]], np.float32)
    values.view(np.uint32)[0, 0] |= 0x1234  # a NaN payload
    content = make_policy("bc", state=2, action=1, hidden=())
    head = PolicyLayer("out", values, np.ones((1, 4), bool), np.array([-0.0], np.float32))
    content = PolicyContent(**{**vars(content), "networks": {"decoder": PolicyNetwork("decoder", (), (head,))}})
    write_policy(tmp_path / "p.sorl", content)
    assert_same(content, read_policy(tmp_path / "p.sorl"))


@pytest.mark.parametrize("kind", ["bc", "bcq", "actor"])
def test_size_at_95_percent(tmp_path, kind):
    content = halfcheetah_policy(kind)
    size = write_policy(tmp_path / "p.sorl", content)
    layers = [layer for network in content.networks.values() for layer in network.layers]
    kept, positions = sum(layer.kept for layer in layers), sum(layer.mask.size for layer in layers)
    p = kept / positions
    entropy = -positions * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8
    floor = 4 * (kept + sum(len(layer.bias) for layer in layers)) + entropy
    assert abs(p - 0.05) < 1e-3
    assert size < 1.05 * floor and size < content.dense_bytes / 16


def test_reading_1500000_positions_takes_well_under_300_ms(tmp_path):
    rng = np.random.default_rng(0)
    mask = rng.random((1500, 1000)) < 0.05
    weight = np.where(mask, rng.normal(size=mask.shape), 0).astype(np.float32)
    first = PolicyLayer("hidden0", weight, mask, np.zeros(1500, np.float32))
    last = PolicyLayer("out", np.zeros((1, 1500), np.float32), np.zeros((1, 1500), bool), np.zeros(1, np.float32))
    decoder = PolicyNetwork("decoder", (first,), (last,))
    ones, one = np.ones(998, np.float32), np.ones(1, np.float32)
    write_policy(
        tmp_path / "p", PolicyContent(Acting("decoder", 2, 0.5), {"decoder": decoder}, ones, ones, -one, one, "x")
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        read_policy(tmp_path / "p")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_one_changed_byte_anywhere_is_refused(folder, sound, data):
    position, change = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(1, 255))
    damaged = bytearray(sound)
    damaged[position] ^= change
    refusal(folder, bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_truncated_and_prolonged_files_are_refused(folder, sound, data):
    refusal(folder, sound[: data.draw(st.integers(0, len(sound) - 1))])
    refusal(folder, sound + data.draw(st.binary(min_size=1, max_size=40)))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), b"{}", b"\x89PNG\r\n\x1a\n" + bytes(200)])
def test_foreign_files_are_refused(folder, data):
    assert "does not begin like one" in refusal(folder, data)


@pytest.mark.parametrize("version", [0, 6])
def test_a_version_that_is_not_read_is_named(folder, sound, version):
    body = sound[:8] + version.to_bytes(4, "little") + sound[12:-32]
    sentence = refusal(folder, signed(body))
    assert f"format version {version} and this software reads versions 1 to 5" in sentence


@pytest.mark.parametrize("kind", ["bcq", "bc"])
def test_files_of_version_1_are_read(folder, kind):
    content = make_policy(kind)
    write_policy(folder / "old.sorl", content)

    def downgrade(header):
        acting = header.pop("acting")
        header |= {key: acting[key] for key in ("latent_dim", "latent_clip", "candidates", "perturbation")}
        header |= {"kind": kind, "candidates": 7 if kind == "bc" else header["candidates"]}
        del header["metadata"]["agent"]

    data = edit_header((folder / "old.sorl").read_bytes(), downgrade)
    body = data[:8] + (1).to_bytes(4, "little") + data[12:-32]
    (folder / "old.sorl").write_bytes(signed(body))
    assert_same(read_policy(folder / "old.sorl"), content)


def test_acting_is_bounded(folder):
    networks = make_policy("bcq", candidates=2**20).networks
    with pytest.raises(ValueError, match="would need 2097152 candidates of 40 units, more than 67108864 numbers"):
        make_policy("bcq", candidates=2**21)
    assert networks


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.sorl", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            read_policy(path)


def _claim(**sizes):
    def change(header):
        header["networks"][0]["hidden"][0].update(sizes)

    return change


def _set(key, value):
    return lambda header: header.update({key: value})


def _act(**fields):
    return lambda header: header["acting"].update(fields)


@pytest.mark.parametrize(
    "change",
    [
        _claim(out=2**40),
        _claim(out=10**400),
        _claim(**{"in": 11_000, "out": 11_000}),
        _claim(**{"in": 20_000, "out": 20_000}),
        _claim(kept=10**6),
        _claim(kept=-1),
        _claim(kept=True),
        _claim(mask_bytes=2**26),
        _claim(name=3),
        _set("exponent_bytes", 2**27),
        _set("observation_dim", 2**26),
        _set("observation_dim", 4),
        _set("networks", []),
        _set("networks", [{}]),
        _set("networks", [3]),
        _set("acting", None),
        _act(propose="critic"),
        _act(propose=None),
        _act(latent_dim=0),
        _act(latent_dim=5),
        _act(latent_dim=2**27),
        _act(candidates=0.5),
        _act(candidates=0),
        _act(candidates=2**27),
        _act(latent_clip=-1.0),
        _act(latent_clip="0.5"),
        _act(latent_clip=float("nan")),
        _act(latent_clip=10**400),
        _act(perturb="decoder"),
        _act(rank="decoder"),
        _act(rank=3),
        _set("metadata", {"seed": 3}),
        _set("metadata", {"env_kwargs": "{"}),
        _set("metadata", {"env_kwargs": "[3]"}),
        _set("env_id", None),
        lambda header: header["acting"].pop("candidates") and None,
        lambda header: header["networks"].append(header["networks"][0]),
        lambda header: [header],
        lambda header: "text",
    ],
)
def test_claims_are_checked_before_memory_is_taken(folder, sound, change):
    data = edit_header(sound, change)
    assert measured_refusal(folder, data)[1] < 2_000_000


def test_sections_of_other_lengths_are_named(folder, sound):
    for change in (_claim(kept=1), _claim(mask_bytes=1), _set("exponent_bytes", 2**27), _set("observation_dim", 4)):
        assert "bytes of values and masks, and there are" in refusal(folder, edit_header(sound, change))


def test_two_layers_of_one_name_are_refused(folder, sound):
    assert "names a layer twice" in refusal(folder, edit_header(sound, _claim(name="hidden1")))


def test_a_small_file_cannot_claim_a_huge_network(folder):
    """Fully pruned layers take no bytes a weight, so only the limit of the format bounds what they claim."""
    write_policy(folder / "empty.sorl", make_policy("bc", 0.0, hidden=(1, 24_000)))

    def enlarge(header):
        first, second = header["networks"][0]["hidden"]
        first["out"] = second["in"] = 12_000
        second["out"] = header["networks"][0]["heads"][0]["in"] = 12_001

    data = edit_header((folder / "empty.sorl").read_bytes(), enlarge)
    assert f"claims more than {MAX_POSITIONS} weights" in refusal(folder, data)


def test_a_small_file_cannot_claim_wide_latents(folder):
    """They take no bytes: nothing in the file's length contradicts 2²⁶ pruned weights from them to the first unit."""
    write_policy(folder / "empty.sorl", make_policy("bc", 0.0, hidden=(1, 2)))

    def widen(header):
        header["networks"][0]["hidden"][0]["in"] += 2**26 - header["acting"]["latent_dim"]
        header["acting"]["latent_dim"] = 2**26

    data = edit_header((folder / "empty.sorl").read_bytes(), widen)
    assert len(data) < 1000
    sentence, peak = measured_refusal(folder, data)
    assert f"weights, more than {len(data)} bytes can hold" in sentence
    assert peak < 2_000_000


def test_headers_that_are_no_json_are_refused(folder, sound):
    for text in (b"[" * 100_000, b"\xff\xfe", b""):
        body = sound[:12] + (24 + len(text) + 32).to_bytes(8, "little") + len(text).to_bytes(4, "little") + text
        assert "not JSON" in refusal(folder, signed(body))
    body = sound[:20] + (2**31).to_bytes(4, "little") + sound[24:-32]
    assert "longer than the file" in refusal(folder, signed(body))


def test_a_mask_that_keeps_another_number_is_refused(folder, sound):
    def move(header):
        first, second = header["networks"][0]["hidden"][:2]
        first["kept"] -= 1
        second["kept"] += 1

    assert "does not keep" in refusal(folder, edit_header(sound, move))


def test_policies_beyond_the_format_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("sparse_offline_rl.policy.format.MAX_POSITIONS", 100)
    with pytest.raises(ValueError, match="more than 100 weights"):
        write_policy(tmp_path / "p.sorl", make_policy())
    assert MAX_POSITIONS == 2**27 and not list(tmp_path.iterdir())


def test_contents_that_do_not_fit_are_refused():
    content = make_policy()
    layer = content.networks["decoder"].hidden[0]
    with pytest.raises(ValueError, match="pruned weights that are not zero"):
        PolicyLayer("x", np.ones((2, 2), np.float32), np.eye(2, dtype=bool), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="wrong types"):
        PolicyLayer("x", layer.weight.astype(float), layer.mask, layer.bias)
    with pytest.raises(ValueError, match="does not fit"):
        PolicyNetwork("x", (layer, layer), content.networks["decoder"].heads)
    for change in (
        {"observation_std": np.zeros(5, np.float32)},
        {"action_low": np.full(3, np.nan, np.float32)},
        {"action_low": content.action_high + 1},
        {"networks": {"decoder": content.networks["decoder"]}},
        {"networks": {**content.networks, "actor": content.networks["critic1"]}},
    ):
        with pytest.raises(ValueError):
            PolicyContent(**{**vars(content), **change})
