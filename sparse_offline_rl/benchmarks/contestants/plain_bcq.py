"""BCQ as one writes it in torch without thinking of speed: networks, losses and sizes of the paper (Fujimoto et al. 2019)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_offline_rl.benchmarks.contestant import Contestant
from sparse_offline_rl.benchmarks.contestants.plain import DISCOUNT, minimize, mlp, move_targets, random_batch

_LATENT_CLIP, _SOFT_CLIP, _PERTURBATION = 0.5, 0.75, 0.05


def _decode(decoder: nn.Module, state: Tensor, z: Tensor) -> Tensor:
    return torch.tanh(decoder(torch.cat([state, z.clamp(-_LATENT_CLIP, _LATENT_CLIP)], 1)))


def _perturb(actor: nn.Module, state: Tensor, action: Tensor) -> Tensor:
    return (action + _PERTURBATION * torch.tanh(actor(torch.cat([state, action], 1)))).clamp(-1, 1)


class PlainPolicy(nn.Module):
    """Dense networks that act on one state ``[1, S]`` with latents ``z`` ``[n, 2 A]``; BC takes one and perturbs nothing."""

    def __init__(self, S: int, A: int, hidden: Mapping[str, Sequence[int]], scored: bool) -> None:
        super().__init__()
        self.scored = scored
        self.decoder = mlp([S + 2 * A, *hidden["vae"], A])
        self.actor = mlp([S + A, *hidden["actor"], A])
        self.q1 = mlp([S + A, *hidden["critic"], 1])

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        state = state.expand(len(z), -1)
        action = _decode(self.decoder, state, z)
        if not self.scored:
            return action
        action = _perturb(self.actor, state, action)
        return action[self.q1(torch.cat([state, action], 1)).argmax(0)]


class PlainBCQ:
    """The agent and its update on one random batch, all actions within ±1."""

    def __init__(
        self,
        S: int,
        A: int,
        hidden: Mapping[str, Sequence[int]],
        batch: int,
        candidates: int,
        sparsity: float,
        bfloat16: bool,
    ) -> None:
        self.latent, self.candidates, self.bfloat16 = 2 * A, candidates, bfloat16
        self.encoder = mlp([S + A, *hidden["vae"], 2 * self.latent], sparsity)
        self.decoder = mlp([S + self.latent, *hidden["vae"], A], sparsity)
        self.actor = mlp([S + A, *hidden["actor"], A], sparsity)
        self.critic = nn.ModuleList(mlp([S + A, *hidden["critic"], 1], sparsity) for _ in range(2))
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.vae_adam = torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()])
        self.critic_adam = torch.optim.Adam(self.critic.parameters())
        self.actor_adam = torch.optim.Adam(self.actor.parameters())
        self.data = random_batch(S, A, batch)

    def _sample(self, state: Tensor) -> Tensor:
        return _decode(self.decoder, state, torch.randn(len(state), self.latent))

    def _vae_loss(self) -> Tensor:
        data = self.data
        mean, log_std = self.encoder(torch.cat([data.state, data.action], 1)).chunk(2, 1)
        std = log_std.clamp(-4, 15).exp()
        z = mean + std * torch.randn_like(std)
        action = torch.tanh(self.decoder(torch.cat([data.state, z], 1)))
        kl = -0.5 * (1 + torch.log(std.pow(2)) - mean.pow(2) - std.pow(2)).mean()
        loss: Tensor = functional.mse_loss(action, data.action) + 0.5 * kl
        return loss

    def _critic_loss(self) -> Tensor:
        data = self.data
        with torch.no_grad():
            state = data.next_state.repeat_interleave(self.candidates, 0)
            pairs = torch.cat([state, _perturb(self.actor_target, state, self._sample(state))], 1)
            q1, q2 = (q(pairs) for q in self.critic_target)
            soft = _SOFT_CLIP * torch.min(q1, q2) + (1 - _SOFT_CLIP) * torch.max(q1, q2)
            best = soft.reshape(-1, self.candidates).max(1)[0].reshape(-1, 1)
            target = data.reward + data.not_done * DISCOUNT * best
        pairs = torch.cat([data.state, data.action], 1)
        q1, q2 = (q(pairs) for q in self.critic)
        return functional.mse_loss(q1, target) + functional.mse_loss(q2, target)

    def _actor_loss(self) -> Tensor:
        state = self.data.state
        action = _perturb(self.actor, state, self._sample(state))
        loss: Tensor = -self.critic[0](torch.cat([state, action], 1)).mean()
        return loss

    @torch.no_grad()
    def act(self, states: Tensor, latent_clip: float, candidates: int | None) -> Tensor:
        """Actions ``[n, A]`` for ``states`` ``[n, S]``: of perturbed candidates the first critic's best; None: one, as it is, as BC does."""
        state = states.repeat_interleave(candidates or 1, 0)
        z = torch.randn(len(state), self.latent).clamp(-latent_clip, latent_clip)
        action = _decode(self.decoder, state, z)
        if candidates is None:
            return action
        action = _perturb(self.actor, state, action)
        best = self.critic[0](torch.cat([state, action], 1)).reshape(-1, candidates).argmax(1)
        return action.reshape(-1, candidates, action.shape[1])[torch.arange(len(states)), best]

    def update_vae(self) -> None:
        """The VAE's part of an update, which is all that BC's return depends on."""
        minimize(self.vae_adam, self._vae_loss, self.bfloat16)

    def update(self) -> None:
        """One update on ``data``."""
        self.update_vae()
        minimize(self.critic_adam, self._critic_loss, self.bfloat16)
        minimize(self.actor_adam, self._actor_loss, self.bfloat16)
        move_targets([(self.critic, self.critic_target), (self.actor, self.actor_target)])


def training(
    S: int,
    A: int,
    hidden: Mapping[str, Sequence[int]],
    batch: int,
    candidates: int,
    threads: int,
    sparsity: float = 0.0,
    bfloat16: bool = False,
) -> Contestant:
    """One update; with ``sparsity`` every weight is multiplied by its mask, with ``bfloat16`` autocast computes the losses."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return Contestant(PlainBCQ(S, A, hidden, batch, candidates, sparsity, bfloat16).update)
