"""Batch-Constrained deep Q-learning (Fujimoto, Meger and Precup 2019), as its authors' code does it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sparse_offline_rl.agents.learner import Learner, PolyakAverage, frozen
from sparse_offline_rl.config import AgentConfig
from sparse_offline_rl.networks.factory import Networks
from sparse_offline_rl.networks.packing import Packable
from sparse_offline_rl.types import Batch, Objective, Spaces

Metrics = dict[str, Tensor]  # name -> tensor of any shape, reduced to its mean only when it is logged
Update = Callable[[Batch, torch.Generator], Metrics]


class BCQ:
    """Actor, twin critics and VAE with their targets and optimisers.

    The life of an agent: build; ``objectives`` (only if it is pruned); perhaps an engine replaces ``networks``' MLPs;
    ``begin_training``; then ``update`` and ``act``.
    """

    def __init__(
        self, spaces: Spaces, config: AgentConfig, device: str = "cpu", generator: torch.Generator | None = None
    ) -> None:
        self.spaces = spaces
        self.config = config
        self.networks = Networks(spaces, config, generator).to(device)
        self.device = torch.device(device)
        # Before training the targets are the networks themselves: a copy would be equal (Algorithm 1 copies after masking).
        self.actor_target, self.critic_target = self.networks.actor, self.networks.critic
        self.learners: dict[str, Learner] = {}
        self.average = PolyakAverage((), (), config.polyak)

    def begin_training(self) -> None:
        """Copy the targets and create the optimisers; call after pruning and after the engine took the networks."""
        nets, config = self.networks, self.config
        self.actor_target, self.critic_target = copy.deepcopy(nets.actor), copy.deepcopy(nets.critic)
        self.actor_target.requires_grad_(False)
        self.critic_target.requires_grad_(False)
        self.learners = {
            "vae": Learner(nets.vae, config.vae_lr, config.weight_decay),
            "critic": Learner(nets.critic, config.critic_lr, config.weight_decay),
            "actor": Learner(nets.actor, config.actor_lr, config.weight_decay),
        }
        targets = (self.critic_target, self.actor_target)
        self.average = PolyakAverage(targets, (nets.critic, nets.actor), config.polyak)

    def target_mlps(self) -> dict[str, Packable]:
        """The target networks, by the names that :meth:`Networks.mlps` gives the online ones."""
        target = self.critic_target
        return {"actor": self.actor_target.net, "critic1": target.q1, "critic2": target.q2}

    def update(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """One training step on B transitions; reads as the stages of the paper's Algorithm 1."""
        learn, rows = self.learners, len(batch.rewards)
        vae_noise, target_noise, actor_noise = self._draw_noise(rows, generator)

        # VAE: imitate the dataset's actions.
        vae_loss, vae_metrics = self.vae_loss(batch, vae_noise)
        learn["vae"].step(vae_loss)

        # Critic: regress both Q values on the soft-clipped target.
        critic_loss, critic_metrics = self.critic_loss(batch, target_noise)
        learn["critic"].step(critic_loss)

        # Actor: perturb the VAE's actions towards higher Q.
        actor_loss = self.actor_loss(batch, actor_noise)
        learn["actor"].step(actor_loss)

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
        q1, q2 = self.critic_target(following, self.target_actions(following, noise))
        soft = torch.lerp(torch.maximum(q1, q2), torch.minimum(q1, q2), config.soft_clip)
        best = soft.view(len(batch.rewards), config.target_candidates).amax(1, keepdim=True)
        target: Tensor = batch.rewards + config.discount * (1 - batch.terminated) * best
        return target

    def target_actions(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Actions tried for each next state ``[B, S]``: decoded and perturbed, ``[B * target_candidates, A]``."""
        perturbed: Tensor = self.actor_target(observations, self.networks.vae.decode(observations, noise))
        return perturbed

    def actor_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """``-mean Q1(s, ξ(s, D(s, z)))``; no gradient into decoder or critic. ``noise`` ``[B, latent]``, clipped."""
        nets = self.networks
        with torch.no_grad():
            decoded = nets.vae.decode(batch.observations, noise)
        with frozen(list(nets.critic.q1.parameters())):
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

    def objectives(self, batch: Batch, generator: torch.Generator) -> dict[str, Objective]:
        """One objective per network to prune, each its own loss on ``batch`` with its noise frozen (Algorithm 1)."""
        vae_noise, target_noise, actor_noise = self._draw_noise(len(batch.rewards), generator)
        target = self.target(batch, target_noise)
        critic = self.networks.critic

        def q_loss(q: nn.Module) -> Tensor:
            return mse_loss(q(batch.observations, batch.actions), target)

        losses = {
            "actor": lambda: self.actor_loss(batch, actor_noise),
            "critic1": lambda: q_loss(critic.q1),
            "encoder": lambda: self.vae_loss(batch, vae_noise)[0],
            "decoder": lambda: self.vae_loss(batch, vae_noise)[0],
        }
        if self.config.twin == "independent":
            losses["critic2"] = lambda: q_loss(critic.q2)
        mlps = self.networks.dense_mlps()
        weights = {name: {layer: m.weight for layer, m in mlps[name].layers().items()} for name in losses}
        return {name: Objective(dict(weights[name]), loss) for name, loss in losses.items()}

    @torch.no_grad()
    def tie_twin(self) -> None:
        """Give the second critic what ``twin`` says of the first: its mask and weights, its mask only, or nothing."""
        mlps = self.networks.dense_mlps()
        first, second = mlps["critic1"], mlps["critic2"]
        if self.config.twin == "copy":
            second.load_state_dict(first.state_dict())
        elif self.config.twin == "copy_mask":
            for name, layer in first.layers().items():
                second.layers()[name].set_mask(layer.mask)

    def _draw_noise(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latent noise for one update on ``rows`` transitions: VAE (not clipped), critic target and actor (clipped)."""
        sizes = (rows, rows * self.config.target_candidates, rows)
        noise = torch.randn(sum(sizes), self.networks.vae.latent_dim, generator=generator, device=self.device)
        noise[rows:].clamp_(-self.config.latent_clip, self.config.latent_clip)
        vae, target, actor = noise.split(sizes)
        return vae, target, actor

    def _acting_noise(self, rows: int, generator: torch.Generator) -> Tensor:
        limit = self.config.acting_latent_clip
        noise = torch.randn(rows, self.networks.vae.latent_dim, generator=generator, device=self.device)
        return noise.clamp_(-limit, limit)
