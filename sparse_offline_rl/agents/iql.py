"""Implicit Q-learning (Kostrikov, Nair and Levine 2021), as its authors' code does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sparse_offline_rl.agents.base import Agent, Metrics
from sparse_offline_rl.agents.optimizers import LearningRate, cosine_decay
from sparse_offline_rl.config import AgentConfig, Fraction, HiddenSizes, PositiveFloat, PositiveInt
from sparse_offline_rl.networks.actor_critic import GaussianActor, TwinCritic
from sparse_offline_rl.networks.mlp import MLPBuilder
from sparse_offline_rl.types import Batch, Spaces


class IQLConfig(AgentConfig):
    """Hyper-parameters of IQL."""

    name: Literal["iql"] = "iql"
    rewards: Literal["raw", "return_range"] = "return_range"
    actor_hidden: HiddenSizes = (256, 256)
    critic_hidden: HiddenSizes = (256, 256)
    value_hidden: HiddenSizes = (256, 256)
    expectile: Fraction = 0.7  # τ
    inverse_temperature: PositiveFloat = 3.0  # β
    max_weight: PositiveFloat = 100.0  # largest weight of an imitated action
    actor_lr: PositiveFloat = 3e-4  # falls to 0 along half a cosine over `actor_lr_decay` steps
    actor_lr_decay: PositiveInt | None = 1_000_000  # None: constant
    critic_lr: PositiveFloat = 3e-4
    value_lr: PositiveFloat = 3e-4


class ValueFunction(nn.Module):
    """V, S -> hidden -> 1."""

    def __init__(self, spaces: Spaces, config: IQLConfig, build: MLPBuilder) -> None:
        super().__init__()
        self.net = build("value", spaces.observation_dim, config.value_hidden, {"out": 1})

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, 1]``."""
        value: Tensor = self.net(observations)
        return value


class IQLNetworks(nn.Module):
    """Gaussian actor, twin critic and state value."""

    def __init__(self, spaces: Spaces, config: IQLConfig, build: MLPBuilder) -> None:
        super().__init__()
        self.actor = GaussianActor(spaces, config.actor_hidden, build)
        self.critic = TwinCritic(spaces, config.critic_hidden, build)
        self.value = ValueFunction(spaces, config, build)


class IQL(Agent):
    """Actor, twin critics with their target, and value function, with their optimisers; it acts by the mean of its policy."""

    Config: ClassVar[type[AgentConfig]] = IQLConfig
    METRICS = (
        "loss/value", "loss/actor", "loss/critic", "q/q1", "q/q2", "q/target", "value/mean", "actor/weight",
    )  # fmt: skip
    build_networks = IQLNetworks  # type: ignore[assignment]
    networks: IQLNetworks
    config: IQLConfig

    def __init__(self, networks: IQLNetworks, spaces: Spaces, config: IQLConfig) -> None:
        decay = config.actor_lr_decay
        # A function also where it is constant: lr_decay is for the others.
        actor_rate = (lambda _: config.actor_lr) if decay is None else cosine_decay(config.actor_lr, decay)
        rates: dict[str, LearningRate] = {"value": config.value_lr, "actor": actor_rate, "critic": config.critic_lr}
        super().__init__(networks, spaces, config, rates, targets=("critic",))

    def update(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """One training step on B transitions; reads as the paper's Algorithm 1. It draws no noise."""
        with torch.no_grad():
            q = torch.minimum(*self.targets["critic"](batch.observations, batch.actions))

        # Value: the expectile of the target critics' Q over the dataset's actions (equation 5).
        value_loss = self.value_loss(batch, q)
        self.optimizers["value"].minimize(value_loss)

        # Actor: imitate the dataset's actions, the more the better they are (equation 7).
        with torch.no_grad():
            value = self.networks.value(batch.observations)
        actor_loss, weight = self.actor_loss(batch, q - value)
        self.optimizers["actor"].minimize(actor_loss)

        # Critic: regress both Q values on the value of the next state (equation 6).
        target = self.target(batch)
        q1, q2 = self.networks.critic(batch.observations, batch.actions)
        critic_loss = mse_loss(q1, target) + mse_loss(q2, target)
        self.optimizers["critic"].minimize(critic_loss)

        # Target: Polyak averaging.
        self.average.step()

        losses = {"loss/value": value_loss, "loss/actor": actor_loss, "loss/critic": critic_loss}
        others = {"q/q1": q1, "q/q2": q2, "q/target": target, "value/mean": value, "actor/weight": weight}
        return {name: tensor.detach() for name, tensor in {**losses, **others}.items()}

    def value_loss(self, batch: Batch, q: Tensor) -> Tensor:
        """``mean |τ - 1(Q < V)| (Q - V)²`` for Q ``[B, 1]`` of the target critics."""
        difference = q - self.networks.value(batch.observations)
        expectile = self.config.expectile
        weight = torch.where(difference.detach() > 0, expectile, 1 - expectile)
        loss: Tensor = (weight * difference.square()).mean()
        return loss

    def actor_loss(self, batch: Batch, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """``-mean w log π(a|s)`` with ``w = min(exp(β A), max_weight)`` for advantages ``[B, 1]``; and w."""
        weight = torch.exp(self.config.inverse_temperature * advantage).clamp(max=self.config.max_weight)
        return -(weight * self.networks.actor.log_density(batch.observations, batch.actions)).mean(), weight

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """``r + γ (1 - terminated) V(s')``, ``[B, 1]``."""
        following = self.networks.value(batch.next_observations)
        target: Tensor = batch.rewards + self.config.discount * (1 - batch.terminated) * following
        return target

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Callable[[], Tensor]]:
        """Each network has its own loss, on the values of the others as they are."""
        critic, target = self.networks.critic, self.target(batch)
        with torch.no_grad():
            q = torch.minimum(*self.targets["critic"](batch.observations, batch.actions))
            advantage = q - self.networks.value(batch.observations)
        return {
            "actor": lambda: self.actor_loss(batch, advantage)[0],
            "value": lambda: self.value_loss(batch, q),
            "critic1": lambda: mse_loss(critic.q1(batch.observations, batch.actions), target),
            "critic2": lambda: mse_loss(critic.q2(batch.observations, batch.actions), target),
        }
