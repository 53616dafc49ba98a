"""Policies as C99 without dependencies beyond ``tanhf``: constant arrays, no allocation, a self-test.

The code that acts is runtime.c in this folder, the same for every policy; here the data are put in front of it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.export.compact import DenseLayer, compact
from sparse_offline_rl.export.vectors import self_test_vectors
from sparse_offline_rl.files import write_bytes
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.types import FloatArray

_LINE = 110
_STEP = 4  # weights that policy_apply takes at a time
_MOST_SHARED = 256  # values that an index of one byte tells apart
_LANES = 8  # candidates at a time: two SSE or NEON registers, half an AVX-512 one

_HEADER = """\
/* {title}: acting, in C99. Link with -lm.
 *
 * policy_act is re-entrant and takes {stack} bytes of stack or so{advice}. */
#ifndef POLICY_H
#define POLICY_H

#define POLICY_OBSERVATION_DIM {state}
#define POLICY_ACTION_DIM {action}
#define POLICY_LATENT_DIM {latent}
#define POLICY_CANDIDATES {candidates}

/* observation[POLICY_OBSERVATION_DIM] as the environment gives it;
 * noise[POLICY_CANDIDATES * POLICY_LATENT_DIM] standard normal, clipped inside, or NULL if that is 0;
 * action[POLICY_ACTION_DIM] is written, within the bounds of the environment. */
void policy_act(const float *observation, const float *noise, float *action);

/* 0 if the policy acts as it did where it was exported, else the number of the first self-test that fails. */
int policy_self_test(void);

#endif
"""

_SOURCE = """\
/* {title}: acting, in C99. */
#include "{stem}.h"

#include <math.h>
#include <stdint.h>

#define POLICY_PERTURBED {perturbed} /* whether a network moves the proposed action */
#define POLICY_RANKED {ranked}    /* whether a network chooses among the candidates */
#define POLICY_SHARED {shared}    /* whether weights are stored as indices of the few values that they have */
#define POLICY_WIDTH {width} /* of the widest layer */
#define POLICY_LATENT_CLIP {clip}
#define POLICY_TESTS {tests}
#define POLICY_LENGTH(array) ((int)(sizeof(array) / sizeof((array)[0])))
{lanes}
"""


def export_c(content: PolicyContent, path: Path) -> list[Path]:
    """Write the C source to ``path`` and its header beside it.

    Weights are stored in CSR form with 16-bit columns after exact compaction; those of a compressed policy as indices of one byte
    where that takes less. Raises UserError for layers wider than 65536,
    values that are not finite, or if the disk refuses.
    """
    acting = content.acting
    roles = {"propose": acting.propose, "perturb": acting.perturb, "rank": acting.rank}
    networks = {role: compact(content.networks[name]) for role, name in roles.items() if name is not None}
    layers = [layer for group in networks.values() for layer in group]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", path.stem):
        raise UserError(f"{path.stem!r} cannot name a C file: use letters, digits, dots, dashes and underscores.")
    width = max(max(layer.weight.shape) for layer in layers)
    if width > 2**16:
        raise UserError(f"a layer of this policy has {width} units and to=c takes 65536 at most: use to=onnx.")
    vectors, shared = self_test_vectors(content), _pays_to_share(layers)
    linear = not all(layer.relu for group in networks.values() for layer in group[:-1])
    several = acting.candidates > 1
    lanes = f"#ifndef POLICY_LANES\n#define POLICY_LANES {_LANES}\n#endif" if several else "#define POLICY_LANES 1"
    facts = {
        "title": _plain(f"{content.metadata.get('agent', '')} policy for {content.env_id}"),
        "stem": path.stem,
        "state": content.observation_dim,
        "action": content.action_dim,
        "latent": acting.latent_dim,
        "candidates": acting.candidates,
        "width": width,
        "perturbed": int(acting.perturb is not None),
        "ranked": int(acting.rank is not None),
        "shared": int(shared),
        "clip": c_float(acting.latent_clip),
        "tests": len(vectors),
    }
    data = _vectors(content) + [
        line for role, group in networks.items() for line in _network(role, group, shared, linear)
    ]
    data += _array("uint32_t", "policy_test_seed", [f"{vector.seed}u" for vector in vectors])
    data += _floats("policy_test_observation", np.concatenate([vector.observation for vector in vectors]))
    data += _floats("policy_test_action", np.concatenate([vector.action for vector in vectors]))
    types, code = _runtime(linear).split("POLICY_NETWORKS\n")
    source = "".join([_SOURCE.format(**facts, lanes=lanes), types, "\n".join(data), "\n", code])
    header = path.with_suffix(".h")
    stack = 8 * width * (_LANES if several else 1)
    advice = f"; compile {path.name} with -DPOLICY_LANES=1 for {8 * width}" if several else ""
    write_bytes(header, _HEADER.format(**facts, stack=stack, advice=advice).encode())
    write_bytes(path, source.encode())
    return [path, header]


def c_float(value: float) -> str:
    """A float constant that reads back as exactly the float32 ``value``."""
    text = f"{np.float32(value):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def _plain(text: str) -> str:
    """``text`` without what could end a comment, start another or be a trigraph."""
    return re.sub(r"[^A-Za-z0-9 ._:=+-]", "_", text)


def _vectors(content: PolicyContent) -> list[str]:
    arrays = {
        "mean": content.observation_mean,
        "std": content.observation_std,
        "center": content.action_center,
        "scale": content.action_scale,
    }
    if content.acting.perturb is not None:
        change = np.float32(content.acting.perturbation) * content.action_scale
        arrays |= {"low": content.action_low, "high": content.action_high, "change": change}
    return [line for name, values in arrays.items() for line in _floats(f"policy_{name}", values)]


def _pays_to_share(layers: Sequence[DenseLayer]) -> bool:
    """Whether an index of one byte for each weight and the values of each layer are fewer bytes than the weights."""
    counts = [(len(np.unique(layer.weight[layer.weight != 0])), int((layer.weight != 0).sum())) for layer in layers]
    fit = all(values <= _MOST_SHARED for values, _ in counts)
    return fit and sum(weights + 4 * values for values, weights in counts) < sum(4 * weights for _, weights in counts)


def _runtime(linear: bool) -> str:
    """The code that is the same for every policy; with a word a layer on its ReLU where some hidden layers are ``linear``."""
    field, relu = ("    int relu;\n", "layers[i].relu") if linear else ("", "i + 1 < count")
    text = Path(__file__).with_name("runtime.c").read_text()
    return text.replace("POLICY_RELU_FIELD", field).replace("POLICY_RELU", relu)


def _network(role: str, layers: tuple[DenseLayer, ...], shared: bool, linear: bool) -> list[str]:
    lines, records = [], []
    for i, layer in enumerate(layers):
        prefix = f"policy_{role}_{i}"
        rows, columns = np.nonzero(layer.weight)
        start = np.searchsorted(rows, np.arange(len(layer.bias) + 1))
        lines += _array("uint32_t", f"{prefix}_start", [str(n) for n in start])
        # C knows no empty arrays, and compilers warn of a loop in steps of four over a shorter one: pad with unread zeros.
        padding = np.zeros(max(0, _STEP - len(rows)), np.float32)
        lines += _array("uint16_t", f"{prefix}_column", [str(n) for n in columns] + ["0"] * len(padding))
        weights = np.concatenate([layer.weight[rows, columns], padding])
        if shared:
            levels, indices = np.unique(weights, return_inverse=True)
            lines += _array("uint8_t", f"{prefix}_index", [str(n) for n in indices])
            lines += _floats(f"{prefix}_level", levels)
        else:
            lines += _floats(f"{prefix}_weight", weights)
        lines += _floats(f"{prefix}_bias", layer.bias)
        names = ("start", "column", *(("index", "level") if shared else ("weight",)), "bias")
        fields = ", ".join([*(f"{prefix}_{field}" for field in names), *([str(int(layer.relu))] if linear else [])])
        records.append(f"    {{{len(layer.bias)}, {fields}}}")
    return [*lines, f"static const policy_layer policy_{role}[] = {{", ",\n".join(records), "};", ""]


def _floats(name: str, values: FloatArray) -> list[str]:
    return _array("float", name, [c_float(value) for value in values])


def _array(kind: str, name: str, texts: Sequence[str]) -> list[str]:
    """A constant array, wrapped to the width of a page."""
    items = " ".join(f"{text}," for text in texts)
    lines = textwrap.wrap(items, _LINE, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return [f"static const {kind} {name}[] = {{", *lines, "};", ""]
