"""BCQ as one writes it in torch without thinking of speed: it stands in for the authors' code and for masked sparsity.

Networks, losses and sizes are the paper's (Fujimoto et al. 2019). Autograd goes through everything that the losses touch, also
where the gradient is thrown away; Adam is torch's default; a pruned weight is a weight times zero.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_offline_rl.benchmarks.contestant import Contestant

_LATENT_CLIP, _DISCOUNT, _POLYAK, _SOFT_CLIP, _PERTURBATION = 0.5, 0.99, 0.005, 0.75, 0.05


class _Masked(nn.Linear):
    """A linear layer whose weights are multiplied by a random mask at every use."""

    mask: Tensor

    def __init__(self, in_features: int, out_features: int, sparsity: float) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mask", (torch.rand(out_features, in_features) >= sparsity).float())

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight * self.mask, self.bias)


def _mlp(sizes: Sequence[int], sparsity: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [_Masked(n_in, n_out, sparsity) if sparsity else nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _decode(decoder: nn.Module, state: Tensor, z: Tensor) -> Tensor:
    return torch.tanh(decoder(torch.cat([state, z.clamp(-_LATENT_CLIP, _LATENT_CLIP)], 1)))


def _perturb(actor: nn.Module, state: Tensor, action: Tensor) -> Tensor:
    return (action + _PERTURBATION * torch.tanh(actor(torch.cat([state, action], 1)))).clamp(-1, 1)


class PlainPolicy(nn.Module):
    """Dense networks that act on one state ``[1, S]`` with latents ``z`` ``[n, 2 A]``; BC takes one and perturbs nothing."""

    def __init__(self, S: int, A: int, hidden: Mapping[str, Sequence[int]], scored: bool) -> None:
        super().__init__()
        self.scored = scored
        self.decoder = _mlp([S + 2 * A, *hidden["vae"], A], 0)
        self.actor = _mlp([S + A, *hidden["actor"], A], 0)
        self.q1 = _mlp([S + A, *hidden["critic"], 1], 0)

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        state = state.expand(len(z), -1)
        action = _decode(self.decoder, state, z)
        if not self.scored:
            return action
        action = _perturb(self.actor, state, action)
        return action[self.q1(torch.cat([state, action], 1)).argmax(0)]


class PlainBCQ:
    """The agent and its update on random data of ``S`` observations and ``A`` actions, all actions within ±1."""

    def __init__(
        self, S: int, A: int, hidden: Mapping[str, Sequence[int]], batch: int, candidates: int, sparsity: float
    ) -> None:
        self.latent, self.batch, self.candidates = 2 * A, batch, candidates
        self.encoder = _mlp([S + A, *hidden["vae"], 2 * self.latent], sparsity)
        self.decoder = _mlp([S + self.latent, *hidden["vae"], A], sparsity)
        self.actor = _mlp([S + A, *hidden["actor"], A], sparsity)
        self.critic = nn.ModuleList(_mlp([S + A, *hidden["critic"], 1], sparsity) for _ in range(2))
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.vae_adam = torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()])
        self.critic_adam = torch.optim.Adam(self.critic.parameters())
        self.actor_adam = torch.optim.Adam(self.actor.parameters())
        self.state, self.next_state = torch.randn(batch, S), torch.randn(batch, S)
        self.action, self.reward = torch.rand(batch, A) * 2 - 1, torch.randn(batch, 1)
        self.not_done = torch.ones(batch, 1)

    def _sample(self, state: Tensor) -> Tensor:
        return _decode(self.decoder, state, torch.randn(len(state), self.latent))

    @staticmethod
    def _step(adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()

    def update(self) -> None:
        """One update on the same batch each time."""
        # VAE
        mean, log_std = self.encoder(torch.cat([self.state, self.action], 1)).chunk(2, 1)
        std = log_std.clamp(-4, 15).exp()
        z = mean + std * torch.randn_like(std)
        action = torch.tanh(self.decoder(torch.cat([self.state, z], 1)))
        kl = -0.5 * (1 + torch.log(std.pow(2)) - mean.pow(2) - std.pow(2)).mean()
        self._step(self.vae_adam, functional.mse_loss(action, self.action) + 0.5 * kl)

        # Critic
        with torch.no_grad():
            state = self.next_state.repeat_interleave(self.candidates, 0)
            pairs = torch.cat([state, _perturb(self.actor_target, state, self._sample(state))], 1)
            q1, q2 = (q(pairs) for q in self.critic_target)
            soft = _SOFT_CLIP * torch.min(q1, q2) + (1 - _SOFT_CLIP) * torch.max(q1, q2)
            best = soft.reshape(self.batch, -1).max(1)[0].reshape(-1, 1)
            target = self.reward + self.not_done * _DISCOUNT * best
        pairs = torch.cat([self.state, self.action], 1)
        losses = [functional.mse_loss(q(pairs), target) for q in self.critic]
        self._step(self.critic_adam, losses[0] + losses[1])

        # Actor
        action = _perturb(self.actor, self.state, self._sample(self.state))
        self._step(self.actor_adam, -self.critic[0](torch.cat([self.state, action], 1)).mean())

        # Targets
        for online, slow in ((self.critic, self.critic_target), (self.actor, self.actor_target)):
            for parameter, kept in zip(online.parameters(), slow.parameters(), strict=True):
                kept.data.copy_(_POLYAK * parameter.data + (1 - _POLYAK) * kept.data)


def training(
    S: int, A: int, hidden: Mapping[str, Sequence[int]], batch: int, candidates: int, sparsity: float, threads: int
) -> Contestant:
    """One update; with ``sparsity`` every weight is multiplied by its mask."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return Contestant(PlainBCQ(S, A, hidden, batch, candidates, sparsity).update)
