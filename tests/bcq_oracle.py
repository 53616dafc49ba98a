"""One BCQ update (Fujimoto et al. 2019) written out by hand in float64 NumPy: the tests' oracle."""

from __future__ import annotations

import numpy as np
from oracle_parts import Adam, backward, forward, masked, polyak


def first_step(net, grads, masks, lr=1e-3):
    """The network after Adam's first step."""
    return Adam(net).step(net, masked(grads, masks), lr)


def bcq_update(nets, masks, batch, noises, cloning=False, gamma=0.99, tau=0.005, lam=0.75, phi=0.05, candidates=10):
    """Losses and new networks after one update; all targets start as copies. Actions live in [-1, 1]."""
    s, a, r, s2, term = batch
    vae_noise, target_noise, actor_noise = noises
    new, losses = dict(nets), {}

    # VAE
    enc_in, stats = forward(nets["encoder"], np.hstack([s, a]))
    latent = stats.shape[1] // 2
    mean, raw = stats[:, :latent], stats[:, latent:]
    log_std = np.clip(raw, -4, 15)
    std = np.exp(log_std)
    dec_in, pre = forward(nets["decoder"], np.hstack([s, mean + std * vae_noise]))
    recon = np.tanh(pre)
    kl = -0.5 * np.mean(1 + np.log(std**2) - mean**2 - std**2)
    losses["vae"] = np.mean((recon - a) ** 2) + 0.5 * kl
    dec_grads, d_in = backward(nets["decoder"], dec_in, 2 * (recon - a) / a.size * (1 - recon**2))
    dz = d_in[:, s.shape[1] :]
    d_mean = dz + 0.5 * mean / mean.size
    d_log_std = (dz * vae_noise * std + 0.5 * (std**2 - 1) / mean.size) * ((raw >= -4) & (raw <= 15))
    enc_grads, _ = backward(nets["encoder"], enc_in, np.hstack([d_mean, d_log_std]))
    new["encoder"] = first_step(nets["encoder"], enc_grads, masks["encoder"])
    new["decoder"] = first_step(nets["decoder"], dec_grads, masks["decoder"])

    # Critic
    rep = np.repeat(s2, candidates, axis=0)
    next_a = np.tanh(forward(new["decoder"], np.hstack([rep, target_noise]))[1])
    if not cloning:
        next_a = np.clip(next_a + phi * np.tanh(forward(nets["actor"], np.hstack([rep, next_a]))[1]), -1, 1)
    q = [forward(nets[k], np.hstack([rep, next_a]))[1] for k in ("critic1", "critic2")]
    soft = lam * np.minimum(*q) + (1 - lam) * np.maximum(*q)
    y = r + gamma * (1 - term) * soft.reshape(len(s), candidates).max(1, keepdims=True)
    losses["critic"] = 0.0
    for k in ("critic1", "critic2"):
        inputs, value = forward(nets[k], np.hstack([s, a]))
        losses["critic"] += np.mean((value - y) ** 2)
        new[k] = first_step(nets[k], backward(nets[k], inputs, 2 * (value - y) / len(s))[0], masks[k])

    # Actor
    base = np.tanh(forward(new["decoder"], np.hstack([s, actor_noise]))[1])
    act_in, pre = forward(nets["actor"], np.hstack([s, base]))
    moved = base + phi * np.tanh(pre)
    inside = (moved >= -1) & (moved <= 1)
    q_in, value = forward(new["critic1"], np.hstack([s, np.clip(moved, -1, 1)]))
    losses["actor"] = -value.mean()
    _, d_in = backward(new["critic1"], q_in, -np.ones_like(value) / len(s))
    grad = d_in[:, s.shape[1] :] * inside * phi * (1 - np.tanh(pre) ** 2)
    new["actor"] = first_step(nets["actor"], backward(nets["actor"], act_in, grad)[0], masks["actor"])

    # Targets
    for k in ("critic1", "critic2", "actor"):
        new[f"{k}_target"] = polyak(nets[k], new[k], tau)
    return losses, new
