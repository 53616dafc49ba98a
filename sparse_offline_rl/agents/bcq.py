"""Batch-Constrained deep Q-learning (Fujimoto, Meger and Precup 2019), as its authors' code does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sparse_offline_rl.agents.base import Agent, Metrics
from sparse_offline_rl.agents.optimizers import frozen
from sparse_offline_rl.config import AgentConfig, Fraction, HiddenSizes, NonNegative, PositiveFloat, PositiveInt
from sparse_offline_rl.networks.actor_critic import TwinCritic
from sparse_offline_rl.networks.bcq import VAE, PerturbationActor
from sparse_offline_rl.networks.mlp import MLPBuilder
from sparse_offline_rl.types import Acting, Batch, Spaces


class GenerativeConfig(AgentConfig):
    """What BCQ and the paper's BC have in common."""

    actor_hidden: HiddenSizes = (400, 300)
    critic_hidden: HiddenSizes = (400, 300)
    vae_hidden: HiddenSizes = (750, 750)
    latent_dim: PositiveInt | None = None  # None: twice the action dimension
    soft_clip: Fraction = 0.75  # λ: weight of the smaller of the two Q values
    perturbation: NonNegative = 0.05  # Φ
    target_candidates: PositiveInt = 10
    latent_clip: PositiveFloat = 0.5  # |z| <= this for candidates in training
    acting_latent_clip: PositiveFloat = 0.5  # … and when acting
    kl_weight: NonNegative = 0.5
    actor_lr: PositiveFloat = 1e-3
    critic_lr: PositiveFloat = 1e-3
    vae_lr: PositiveFloat = 1e-3


class BCQConfig(GenerativeConfig):
    """Hyper-parameters of BCQ."""

    name: Literal["bcq"] = "bcq"
    acting_candidates: PositiveInt = 100


class BCQNetworks(nn.Module):
    """Perturbation actor, twin critic and VAE."""

    def __init__(self, spaces: Spaces, config: GenerativeConfig, build: MLPBuilder) -> None:
        super().__init__()
        latent_dim = config.latent_dim or 2 * spaces.action_dim
        self.actor = PerturbationActor(spaces, config.actor_hidden, config.perturbation, build)
        self.critic = TwinCritic(spaces, config.critic_hidden, build)
        self.vae = VAE(spaces, config.vae_hidden, latent_dim, build)


class BCQ(Agent):
    """Actor, twin critics and VAE with their targets and optimisers."""

    Config: ClassVar[type[AgentConfig]] = BCQConfig
    METRICS = (
        "loss/vae", "loss/critic", "loss/actor", "vae/reconstruction", "vae/kl", "q/q1", "q/q2", "q/target",
    )  # fmt: skip
    build_networks = BCQNetworks  # type: ignore[assignment]
    networks: BCQNetworks
    config: BCQConfig

    def __init__(self, networks: BCQNetworks, spaces: Spaces, config: GenerativeConfig) -> None:
        rates = {"vae": config.vae_lr, "critic": config.critic_lr, "actor": config.actor_lr}
        super().__init__(networks, spaces, config, rates, targets=("critic", "actor"))

    def update(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """One training step on B transitions; reads as the stages of the paper's Algorithm 1."""
        optimizers, rows = self.optimizers, len(batch.rewards)
        vae_noise, target_noise, actor_noise = self._draw_noise(rows, generator)

        # VAE: imitate the dataset's actions.
        vae_loss, vae_metrics = self.vae_loss(batch, vae_noise)
        optimizers["vae"].minimize(vae_loss)

        # Critic: regress both Q values on the soft-clipped target.
        critic_loss, critic_metrics = self.critic_loss(batch, target_noise)
        optimizers["critic"].minimize(critic_loss)

        # Actor: perturb the VAE's actions towards higher Q.
        actor_loss = self.actor_loss(batch, actor_noise)
        optimizers["actor"].minimize(actor_loss)

        # Targets: Polyak averaging.
        self.average.step()

        losses = {"loss/vae": vae_loss, "loss/critic": critic_loss, "loss/actor": actor_loss}
        return {name: value.detach() for name, value in {**losses, **vae_metrics, **critic_metrics}.items()}

    def vae_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Metrics]:
        """Reconstruction plus weighted KL divergence; ``noise`` ``[B, latent]`` standard normal, not clipped."""
        vae = self.networks.vae
        latents, kl = vae.encode(batch.observations, batch.actions, noise)
        reconstruction = mse_loss(vae.decode(batch.observations, latents), batch.actions)
        return reconstruction + self.config.kl_weight * kl, {"vae/reconstruction": reconstruction, "vae/kl": kl}

    def critic_loss(self, batch: Batch, noise: Tensor) -> tuple[Tensor, Metrics]:
        """Sum of both critics' mean squared errors; ``noise`` ``[B * target_candidates, latent]``, clipped."""
        target = self.target(batch, noise)
        q1, q2 = self.networks.critic(batch.observations, batch.actions)
        return mse_loss(q1, target) + mse_loss(q2, target), {"q/q1": q1, "q/q2": q2, "q/target": target}

    @torch.no_grad()
    def target(self, batch: Batch, noise: Tensor) -> Tensor:
        """``r + γ (1 - terminated) max over candidates of λ min(Q1, Q2) + (1 - λ) max(Q1, Q2)``, ``[B, 1]``."""
        config = self.config
        following = batch.next_observations  # each stands for all of its candidates
        q1, q2 = self.targets["critic"](following, self.target_actions(following, noise))
        soft = torch.lerp(torch.maximum(q1, q2), torch.minimum(q1, q2), config.soft_clip)
        best = soft.view(len(batch.rewards), config.target_candidates).amax(1, keepdim=True)
        target: Tensor = batch.rewards + config.discount * (1 - batch.terminated) * best
        return target

    def target_actions(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions tried for each next state ``[B, S]``: decoded and perturbed, ``[B * target_candidates, A]``."""
        perturbed: Tensor = self.targets["actor"](observations, self.networks.vae.decode(observations, noise))
        return perturbed

    def actor_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """``-mean Q1(s, ξ(s, D(s, z)))``; no gradient into decoder or critic. ``noise`` ``[B, latent]``, clipped."""
        nets = self.networks
        with torch.no_grad():
            decoded = nets.vae.decode(batch.observations, noise)
        with frozen(nets.critic.q1):
            q: Tensor = nets.critic.q1(batch.observations, nets.actor(batch.observations, decoded))
        return -q.mean()

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Best of ``acting_candidates`` perturbed VAE samples by Q1; normalised ``[n, S]`` to ``[n, A]``."""
        nets, count = self.networks, self.config.acting_candidates
        noise = self._acting_noise(len(observations) * count, generator)
        decoded = nets.vae.decode(observations, noise)
        actions: Tensor = nets.actor(observations, decoded)
        best = nets.critic.q1(observations, actions).view(-1, count).argmax(1)
        return actions.view(len(observations), count, -1)[torch.arange(len(best), device=best.device), best]

    def acting(self) -> Acting:
        """Decode candidates, perturb them, do the one that the first critic values most."""
        config = self.config
        return Acting(
            propose="decoder",
            latent_dim=self.networks.vae.latent_dim,
            latent_clip=config.acting_latent_clip,
            perturb="actor",
            perturbation=config.perturbation,
            rank="critic1",
            candidates=config.acting_candidates,
        )

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Callable[[], Tensor]]:
        """Encoder and decoder have the VAE's loss, each critic its own squared error, the actor its own."""
        vae_noise, target_noise, actor_noise = self._draw_noise(len(batch.rewards), generator)
        target, critic = self.target(batch, target_noise), self.networks.critic

        def q_loss(q: nn.Module) -> Tensor:
            return mse_loss(q(batch.observations, batch.actions), target)

        return {
            "actor": lambda: self.actor_loss(batch, actor_noise),
            "critic1": lambda: q_loss(critic.q1),
            "encoder": lambda: self.vae_loss(batch, vae_noise)[0],
            "decoder": lambda: self.vae_loss(batch, vae_noise)[0],
            "critic2": lambda: q_loss(critic.q2),
        }

    def _draw_noise(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latent noise for one update on ``rows`` transitions: VAE (not clipped), critic target and actor (clipped)."""
        sizes = (rows, rows * self.config.target_candidates, rows)
        noise = torch.randn(sum(sizes), self.networks.vae.latent_dim, generator=generator, device=self.device)
        noise[rows:].clamp_(-self.config.latent_clip, self.config.latent_clip)
        vae, target, actor = noise.split(sizes)
        return vae, target, actor

    def _acting_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Clipped latent noise ``[rows, latent]``."""
        noise = torch.randn(rows, self.networks.vae.latent_dim, generator=generator, device=self.device)
        bound = self.config.acting_latent_clip
        return noise.clamp_(-bound, bound)
