"""ESPN: a real number beside each weight, pulled to zero by an L1 penalty (Cho et al. 2020, equation 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sparse_offline_rl.pruning.learned.extension import Extension, summed

THRESHOLD = 0.01  # |c| above which a weight counts as there


class SoftMask(Extension):
    """``L(c ⊙ w) + α ‖c‖₁``, c = 1 at the start; those weights survive whose \\|c\\| is largest.

    The authors train w and c together by SGD with momentum; here each has Adam, as the agents do.
    """

    INITIAL = 1.0

    def factors(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """As the base says."""
        return self.gates[layer], None

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """``‖c‖₁``."""
        return summed(gate.abs() for gate in self.gates.values())

    def importance(self, layer: str, weight: Tensor) -> Tensor:
        """``|c|``."""
        return self.gates[layer].detach().abs()

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """``|c| > 0.01``, the authors' threshold."""
        return self.importance(layer, weight) > THRESHOLD
