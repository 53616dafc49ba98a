"""Updates of IQL (Kostrikov, Nair, Levine 2021, equations 5 to 7) written out by hand in float64 NumPy: the tests' oracle.

The order within an update is that of the authors' code: value, actor, critics, targets. Value and actor see the target critics,
actor and critics see the value network after its step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from oracle_parts import ActionBounds, Adam, backward, critic_step, forward, masked, polyak


@dataclass(frozen=True)
class IQLSettings(ActionBounds):
    """Hyper-parameters with the authors' values."""

    discount: float = 0.99
    polyak: float = 0.005
    expectile: float = 0.7
    temperature: float = 3.0  # inverse temperature β
    weight_clip: float = 100.0
    log_std_min: float = -5.0
    log_std_max: float = 2.0
    value_lr: float = 3e-4
    actor_lr: float = 3e-4  # of the first step; decays along half a cosine
    critic_lr: float = 3e-4
    total_updates: int = 1_000_000  # where the actor's rate reaches zero


def least_q(critics, observations, actions):
    """The smaller Q value of each pair, [B, 1]."""
    pairs = np.hstack([observations, actions])
    return np.minimum(*(forward(net, pairs)[1] for net in critics))


def value_step(value, observations, q, expectile):
    """The expectile loss of V(s) against Q [B, 1], and its gradients (equation 5)."""
    inputs, v = forward(value, observations)
    difference = q - v
    weight = np.where(difference > 0, expectile, 1 - expectile)
    loss = np.mean(weight * difference**2)
    return loss, backward(value, inputs, -2 * weight * difference / len(q))[0]


def advantage_weights(value, observations, q, settings):
    """min(exp(β (Q − V)), clip) [B, 1], numbers without gradient."""
    advantage = q - forward(value, observations)[1]
    return np.minimum(np.exp(settings.temperature * advantage), settings.weight_clip)


def actor_step(actor, log_std, observations, actions, weights, settings):
    """The loss −mean w log π(a | s) (equation 7), and the gradients of the layers and of ``log_std`` [A].

    π is a Gaussian whose mean lies within the bounds and whose deviations are the same in all states.
    """
    inputs, pre = forward(actor, observations)
    squashed = np.tanh(pre)
    mean = settings.center + settings.scale * squashed
    clipped = np.clip(log_std, settings.log_std_min, settings.log_std_max)
    deviations = (actions - mean) / np.exp(clipped)
    log_density = (-0.5 * deviations**2 - clipped - 0.5 * np.log(2 * np.pi)).sum(1, keepdims=True)
    loss = -np.mean(weights * log_density)
    d_mean = -weights / len(weights) * deviations / np.exp(clipped)
    inside = (log_std > settings.log_std_min) & (log_std < settings.log_std_max)
    d_log_std = -(weights * (deviations**2 - 1)).mean(0) * inside
    return loss, backward(actor, inputs, d_mean * settings.scale * (1 - squashed**2))[0], d_log_std


class IQLOracle:
    """Networks ``value``, ``actor``, ``critic1``, ``critic2``, and the critics' ``…_target``, which start as copies.

    ``masks`` gives a network's boolean masks, one a layer; weights outside of them must be zero, and stay so.
    """

    def __init__(self, networks, log_std, settings=None, masks=None):
        self.settings = settings or IQLSettings()
        self.masks = masks or {}
        self.log_std = np.asarray(log_std, dtype=np.float64)
        self.networks = {**networks, **{f"{name}_target": networks[name] for name in ("critic1", "critic2")}}
        self.adam = {name: Adam(networks[name]) for name in ("value", "critic1", "critic2")}
        self.adam["actor"] = Adam([*networks["actor"], (self.log_std,)])

    def update(self, batch):
        """The losses of one update on (s, a, r, s', terminated)."""
        nets, settings = self.networks, self.settings
        observations, actions, rewards, following, terminated = batch
        q = least_q((nets["critic1_target"], nets["critic2_target"]), observations, actions)
        losses = {}

        losses["value"], grads = value_step(nets["value"], observations, q, settings.expectile)
        self._descend("value", grads, settings.value_lr)

        weights = advantage_weights(nets["value"], observations, q, settings)
        losses["actor"], grads, d_log_std = actor_step(
            nets["actor"], self.log_std, observations, actions, weights, settings
        )
        self._descend_actor(grads, d_log_std)

        y = rewards + settings.discount * (1 - terminated) * forward(nets["value"], following)[1]
        losses["critic"] = 0.0
        for name in ("critic1", "critic2"):
            loss, grads = critic_step(nets[name], observations, actions, y)
            losses["critic"] += loss
            self._descend(name, grads, settings.critic_lr)
            nets[f"{name}_target"] = polyak(nets[f"{name}_target"], nets[name], settings.polyak)
        return losses

    def actor_rate(self):
        """The rate of the actor's next step."""
        done = min(self.adam["actor"].steps / self.settings.total_updates, 1.0)
        return self.settings.actor_lr * 0.5 * (1 + np.cos(np.pi * done))

    def _descend(self, name, grads, rate):
        net = self.networks[name]
        self.networks[name] = self.adam[name].step(net, masked(grads, self.masks.get(name)), rate)

    def _descend_actor(self, grads, d_log_std):
        parameters = [*self.networks["actor"], (self.log_std,)]
        grads = [*masked(grads, self.masks.get("actor")), (d_log_std,)]
        *self.networks["actor"], (self.log_std,) = self.adam["actor"].step(parameters, grads, self.actor_rate())
