"""Policies for the tests of files, runtime and exports, and acting written a second time, plainly, in float64."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace

import numpy as np

from sparse_offline_rl.compression.compress import quantized, share, shared
from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.types import Acting

PREFIX_BYTES, VERSION, HEADER_LENGTH, DIGEST_BYTES = 24, slice(8, 12), slice(20, 24), 32


def heavy_tailed_mask(rng, shape, kept, tail=2.0):
    """A mask whose rows and columns differ in density, as SNIP's do; the smaller ``tail``, the more."""
    rows, columns = (rng.gamma(tail, size=size) for size in shape)
    scores = np.log(np.outer(rows, columns) + 1e-12) + rng.gumbel(size=shape)
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, axis=None)[:kept]] = True
    return mask.reshape(shape)


def make_layer(rng, name, inputs, outputs, density):
    bound = 1 / np.sqrt(inputs)
    mask = heavy_tailed_mask(rng, (outputs, inputs), round(density * inputs * outputs))
    weight = np.where(mask, rng.uniform(-bound, bound, mask.shape), 0).astype(np.float32)
    return PolicyLayer(name, weight, mask, rng.uniform(-bound, bound, outputs).astype(np.float32))


def make_network(rng, name, widths, density, heads=None, linear=()):
    """An MLP of ``widths`` from input to output; ``heads`` splits the output over several; no ReLU after ``linear`` layers."""
    hidden = [make_layer(rng, f"hidden{i}", widths[i], widths[i + 1], density) for i in range(len(widths) - 2)]
    outputs = [make_layer(rng, f"head{i}", widths[-2], width, density) for i, width in enumerate(heads or widths[-1:])]
    return PolicyNetwork(name, tuple(hidden), tuple(outputs), frozenset(linear))


def make_policy(
    kind="bcq", density=0.3, state=5, action=3, hidden=(40, 30), candidates=7, perturbation=0.05, seed=0, linear=()
):
    """A policy that acts as BCQ does, as BC does, or by its actor alone (TD3+BC, IQL)."""
    rng = np.random.default_rng(seed)
    latents = {"latent_dim": 2 * action, "latent_clip": 0.5}
    ranked = {"perturb": "actor", "perturbation": perturbation, "rank": "critic1", "candidates": candidates}
    acting = {
        "bcq": Acting("decoder", **latents, **ranked),
        "bc": Acting("decoder", **latents),
        "actor": Acting("actor"),
    }[kind]
    networks = {
        name: make_network(rng, name, [inputs, *hidden, outputs], density, linear=linear)
        for name, (inputs, outputs) in acting.shapes(state, action).items()
    }
    return PolicyContent(
        acting=acting,
        networks=networks,
        observation_mean=rng.normal(size=state).astype(np.float32),
        observation_std=rng.uniform(0.5, 2, state).astype(np.float32),
        action_low=-rng.uniform(0.5, 2, action).astype(np.float32),
        action_high=rng.uniform(0.5, 2, action).astype(np.float32),
        env_id="HalfCheetah-v5",
        metadata={"agent": kind, "prune": "snip", "sparsity": "0.95"},
    )


def compressed_policy(kind="bcq", bits=None, clusters=16, **options):
    """The same with few values: clusters, or steps of ``bits`` bits."""
    content = make_policy(kind, **options)
    return shared(content, share(content, clusters)) if bits is None else quantized(content, bits)


def hashed_policy(kind="bcq", share=0.2, bits=None, **options):
    """The same with hashed networks that have ``share`` of their weights as values, perhaps on steps of ``bits`` bits."""
    content = make_policy(kind, 1.0, **options)

    def hashed(layer):
        hashing = LayerHash(*layer.weight.shape, max(1, round(share * layer.weight.size)), layer.weight.size)
        return replace(layer, weight=hashing.expand(hashing.last(layer.weight)), hashing=hashing)

    networks = {
        name: PolicyNetwork(name, tuple(map(hashed, it.hidden)), tuple(map(hashed, it.heads)))
        for name, it in content.networks.items()
    }
    content = replace(content, networks=networks)
    return content if bits is None else quantized(content, bits)


def halfcheetah_policy(kind, density=0.05):
    """The sizes of the paper's networks on HalfCheetah."""
    state, action, rng = 17, 6, np.random.default_rng(0)
    small = make_policy(kind, state=state, action=action, hidden=(4,), candidates=100)
    hidden = {"decoder": [750, 750], "actor": [400, 300], "critic1": [400, 300]}
    networks = {
        name: make_network(rng, name, [inputs, *hidden[name], outputs], density)
        for name, (inputs, outputs) in small.acting.shapes(state, action).items()
    }
    return PolicyContent(**{**vars(small), "networks": networks})


def forward(network, x):
    """``x`` ``[n, in]`` through the network in float64."""
    for layer in network.hidden:
        x = x @ layer.weight.T.astype(float) + layer.bias
        x = x if layer.name in network.linear else np.maximum(x, 0)
    return np.concatenate([x @ head.weight.T.astype(float) + head.bias for head in network.heads], axis=1)


def reference_candidates(content, observation, noise):
    """Actions ``[rows, A]`` that acting chooses from, and their scores ``[rows]``."""
    acting, networks = content.acting, content.networks
    low, high = content.action_low.astype(float), content.action_high.astype(float)
    scale = (high - low) / 2
    z = np.clip(noise.astype(float), -acting.latent_clip, acting.latent_clip)
    o = np.tile(
        (observation.astype(float) - content.observation_mean) / content.observation_std, (acting.candidates, 1)
    )
    a = (low + high) / 2 + scale * np.tanh(forward(networks[acting.propose], np.hstack([o, z])))
    if acting.perturb is not None:
        change = acting.perturbation * scale * np.tanh(forward(networks[acting.perturb], np.hstack([o, a])))
        a = np.clip(a + change, low, high)
    return a, np.zeros(1) if acting.rank is None else forward(networks[acting.rank], np.hstack([o, a]))[:, 0]


def assert_follows_rule(content, observations, noise, actions, tolerance=1e-5):
    """Each action is a candidate that scores best, both within ``tolerance``: scores may tie up to rounding."""
    assert actions.shape == (len(observations), content.action_dim) and actions.dtype == np.float32
    for i, (observation, action) in enumerate(zip(observations, actions, strict=True)):
        candidates, scores = reference_candidates(
            content, observation, noise[i * content.acting.candidates : (i + 1) * content.acting.candidates]
        )
        near = np.abs(candidates - action).max(1) <= tolerance
        assert near.any(), f"action {i} is no candidate"
        assert scores[near].max() >= scores.max() - tolerance, f"action {i} is not the best"


def assert_same(a, b):
    """Two policies are equal bit for bit."""
    arrays = ("observation_mean", "observation_std", "action_low", "action_high")
    for name in arrays:
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    fields = {key: value for key, value in vars(a).items() if key not in (*arrays, "networks")}
    assert fields == {key: getattr(b, key) for key in fields}
    assert list(a.networks) == list(b.networks)
    for name, network in a.networks.items():
        other = b.networks[name]
        assert (len(network.hidden), len(network.heads)) == (len(other.hidden), len(other.heads))
        assert network.linear == other.linear
        for x, y in zip(network.layers, other.layers, strict=True):
            assert x.name == y.name
            assert x.mask.shape == y.mask.shape and np.array_equal(x.mask, y.mask)
            assert x.weight.tobytes() == y.weight.tobytes() and x.bias.tobytes() == y.bias.tobytes()
            assert [levels_of(it) for _, it in x.vectors] == [levels_of(it) for _, it in y.vectors]
            assert x.hashing == y.hashing


def levels_of(levels):
    """Levels as something that can be compared."""
    return None if levels is None else (type(levels), getattr(levels, "bits", 0), levels.floats.tobytes())


def edit_header(data, change):
    """``data`` of a policy file with ``change(header)`` applied, lengths and checksum made right again."""
    length = int.from_bytes(data[HEADER_LENGTH], "little")
    deflated = int.from_bytes(data[VERSION], "little") >= 3
    text = data[PREFIX_BYTES : PREFIX_BYTES + length]
    header = json.loads(zlib.decompress(text) if deflated else text)
    body = data[PREFIX_BYTES + length : -DIGEST_BYTES]
    text = json.dumps(change(header) or header).encode()
    return with_header(data, zlib.compress(text) if deflated else text, body)


def with_header(data, text, body):
    """A policy file of the version of ``data`` with another header and body, lengths and checksum made right."""
    total = PREFIX_BYTES + len(text) + len(body) + DIGEST_BYTES
    return signed(data[:12] + total.to_bytes(8, "little") + len(text).to_bytes(4, "little") + text + body)


def signed(body):
    """``body`` and its checksum, as a file ends."""
    return bytes(body) + hashlib.sha256(body).digest()
