"""TD3+BC (Fujimoto and Gu 2021): TD3 whose actor also imitates the dataset, as its authors' code does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sparse_offline_rl.agents.base import Agent, Metrics
from sparse_offline_rl.agents.optimizers import LearningRate, cosine_decay, frozen
from sparse_offline_rl.config import AgentConfig, HiddenSizes, NonNegative, PositiveFloat, PositiveInt
from sparse_offline_rl.networks.actor_critic import DeterministicActor, TwinCritic
from sparse_offline_rl.networks.mlp import MLPBuilder
from sparse_offline_rl.types import Batch, Spaces


class TD3BCConfig(AgentConfig):
    """Hyper-parameters of TD3+BC; noise is in units of half the action range."""

    name: Literal["td3bc"] = "td3bc"
    actor_hidden: HiddenSizes = (256, 256)
    critic_hidden: HiddenSizes = (256, 256)
    alpha: PositiveFloat = 2.5  # weight of Q against imitation, before Q is normalised
    policy_noise: NonNegative = 0.2
    noise_clip: NonNegative = 0.5
    policy_every: PositiveInt = 2  # updates of the critics for one of actor and targets
    actor_lr: PositiveFloat = 3e-4
    critic_lr: PositiveFloat = 3e-4


class TD3BCNetworks(nn.Module):
    """Deterministic actor and twin critic."""

    def __init__(self, spaces: Spaces, config: TD3BCConfig, build: MLPBuilder) -> None:
        super().__init__()
        self.actor = DeterministicActor(spaces, config.actor_hidden, build)
        self.critic = TwinCritic(spaces, config.critic_hidden, build)


class TD3BC(Agent):
    """Actor and twin critics with their targets and optimisers."""

    Config: ClassVar[type[AgentConfig]] = TD3BCConfig
    METRICS = ("loss/critic", "loss/actor", "q/q1", "q/q2", "q/target", "actor/imitation")
    build_networks = TD3BCNetworks  # type: ignore[assignment]
    networks: TD3BCNetworks
    config: TD3BCConfig

    def __init__(self, networks: TD3BCNetworks, spaces: Spaces, config: TD3BCConfig) -> None:
        rates: dict[str, LearningRate] = {"critic": config.critic_lr, "actor": config.actor_lr}
        if config.lr_decay is not None:  # the actor takes fewer steps
            rates["actor"] = cosine_decay(config.actor_lr, math.ceil(config.lr_decay / config.policy_every))
        super().__init__(networks, spaces, config, rates, targets=("critic", "actor"))

    def phase(self) -> Hashable:
        """Whether the next update moves actor and targets: every second one by default."""
        return (self.optimizers["critic"].steps + 1) % self.config.policy_every == 0

    def update(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """One training step on B transitions; reads as the paper's section 4 on top of TD3."""
        moves_actor = self.phase()

        # Critic: regress both Q values on the smaller target of a smoothed target action.
        noise = torch.randn(batch.actions.shape, generator=generator, device=self.device)
        target = self.target(batch, noise)
        q1, q2 = self.networks.critic(batch.observations, batch.actions)
        critic_loss = mse_loss(q1, target) + mse_loss(q2, target)
        self.optimizers["critic"].minimize(critic_loss)
        metrics = {"loss/critic": critic_loss, "q/q1": q1, "q/q2": q2, "q/target": target}

        if moves_actor:
            # Actor: towards higher Q, and towards the dataset's actions.
            actor_loss, imitation = self.actor_loss(batch)
            self.optimizers["actor"].minimize(actor_loss)
            metrics |= {"loss/actor": actor_loss, "actor/imitation": imitation}

            # Targets: Polyak averaging.
            self.average.step()

        return {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def target(self, batch: Batch, noise: Tensor) -> Tensor:
        """``r + γ (1 - terminated) min Q'(s', clamp(π'(s') + clip(noise)))``, ``[B, 1]``; ``noise`` standard normal ``[B, A]``."""
        config, bounds = self.config, self.networks.actor.bounds
        smoothing = (config.policy_noise * noise).clamp(-config.noise_clip, config.noise_clip)
        actions = bounds.clamp(torch.addcmul(self.targets["actor"](batch.next_observations), bounds.scale, smoothing))
        q1, q2 = self.targets["critic"](batch.next_observations, actions)
        target: Tensor = batch.rewards + config.discount * (1 - batch.terminated) * torch.minimum(q1, q2)
        return target

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """``-λ mean Q1(s, π(s)) + mean (π(s) - a)²`` with ``λ = α / mean |Q1|``, no gradient through λ; and its second term."""
        nets = self.networks
        actions = nets.actor(batch.observations)
        with frozen(nets.critic.q1):
            q = nets.critic.q1(batch.observations, actions)
        weight = self.config.alpha / q.detach().abs().mean()
        imitation = mse_loss(actions, batch.actions)
        return imitation - weight * q.mean(), imitation

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Callable[[], Tensor]]:
        """Each critic has its own squared error, the actor its own loss."""
        noise = torch.randn(batch.actions.shape, generator=generator, device=self.device)
        target, critic = self.target(batch, noise), self.networks.critic
        return {
            "actor": lambda: self.actor_loss(batch)[0],
            "critic1": lambda: mse_loss(critic.q1(batch.observations, batch.actions), target),
            "critic2": lambda: mse_loss(critic.q2(batch.observations, batch.actions), target),
        }
