"""Updates of TD3+BC (Fujimoto & Gu 2021, equation 5 on top of TD3) written out by hand in float64 NumPy: the tests' oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from oracle_parts import ActionBounds, Adam, backward, critic_step, forward, masked, polyak


@dataclass(frozen=True)
class TD3BCSettings(ActionBounds):
    """Hyper-parameters with the authors' values."""

    discount: float = 0.99
    polyak: float = 0.005
    policy_every: int = 2
    noise: float = 0.2  # standard deviation of the target policy's noise, in half ranges of the action
    noise_clip: float = 0.5  # in half ranges of the action
    alpha: float = 2.5
    actor_lr: float = 3e-4
    critic_lr: float = 3e-4


def target_values(actor_target, critic_targets, batch, noise, settings):
    """y [B, 1]; ``noise`` [B, A] is standard normal."""
    _, _, rewards, following, terminated = batch
    limit = settings.noise_clip * settings.scale
    smoothing = np.clip(settings.noise * settings.scale * noise, -limit, limit)
    actions = settings.center + settings.scale * np.tanh(forward(actor_target, following)[1]) + smoothing
    pairs = np.hstack([following, np.clip(actions, settings.low, settings.high)])
    q = np.minimum(*(forward(net, pairs)[1] for net in critic_targets))
    return rewards + settings.discount * (1 - terminated) * q


def q_weight(actor, critic, observations, settings):
    """λ = α / mean |Q(s, π(s))|, a number without gradient."""
    pi = settings.center + settings.scale * np.tanh(forward(actor, observations)[1])
    return settings.alpha / np.abs(forward(critic, np.hstack([observations, pi]))[1]).mean()


def actor_step(actor, critic, observations, actions, weight, settings):
    """The actor's loss −λ mean Q(s, π(s)) + mean (π(s) − a)², and its gradients; ``weight`` is λ."""
    inputs, pre = forward(actor, observations)
    squashed = np.tanh(pre)
    pi = settings.center + settings.scale * squashed
    q_inputs, q = forward(critic, np.hstack([observations, pi]))
    loss = -weight * q.mean() + np.mean((pi - actions) ** 2)
    _, d_pair = backward(critic, q_inputs, np.full_like(q, -weight / len(q)))
    d_pi = d_pair[:, observations.shape[1] :] + 2 * (pi - actions) / pi.size
    return loss, backward(actor, inputs, d_pi * settings.scale * (1 - squashed**2))[0]


class TD3BCOracle:
    """Networks ``actor``, ``critic1``, ``critic2`` and their ``…_target``, which start as copies, one update after the other.

    ``masks`` gives a network's boolean masks, one a layer; weights outside of them must be zero, and stay so.
    """

    def __init__(self, networks, settings=None, masks=None):
        self.settings = settings or TD3BCSettings()
        self.masks = masks or {}
        self.networks = {**networks, **{f"{name}_target": net for name, net in networks.items()}}
        self.adam = {name: Adam(net) for name, net in networks.items()}
        self.updates = 0

    def update(self, batch, noise):
        """The losses of one update on (s, a, r, s', terminated), ``actor`` only where the policy is updated."""
        nets, settings = self.networks, self.settings
        observations, actions = batch[:2]
        self.updates += 1

        y = target_values(
            nets["actor_target"], (nets["critic1_target"], nets["critic2_target"]), batch, noise, settings
        )
        losses = {"critic": 0.0}
        for name in ("critic1", "critic2"):
            loss, grads = critic_step(nets[name], observations, actions, y)
            losses["critic"] += loss
            self._descend(name, grads, settings.critic_lr)
        if self.updates % settings.policy_every:
            return losses

        weight = q_weight(nets["actor"], nets["critic1"], observations, settings)
        losses["actor"], grads = actor_step(nets["actor"], nets["critic1"], observations, actions, weight, settings)
        self._descend("actor", grads, settings.actor_lr)
        for name in ("actor", "critic1", "critic2"):
            nets[f"{name}_target"] = polyak(nets[f"{name}_target"], nets[name], settings.polyak)
        return losses

    def _descend(self, name, grads, rate):
        net = self.networks[name]
        self.networks[name] = self.adam[name].step(net, masked(grads, self.masks.get(name)), rate)
