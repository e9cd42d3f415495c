#!/usr/bin/env python3
"""Golden steps of the optimizers: tests/data/optim/steps.safetensors, read by tests/test_optim.c.

Each optimizer is written here from its paper's pseudo-code, in float64:
  AdEMAMix   Pagliardini et al. 2024 (arXiv 2409.03137), algorithm 1, schedulers of section 3
  Grokfast   Lee et al. 2024 (arXiv 2405.20233), algorithm 2 (EMA filter), then clip and torch.optim.AdamW
  ema        the average of AdamW's weights, decay min(d, (1 + t) / (10 + t)) as in TensorFlow
  SOAP       Vyas et al. 2024 (arXiv 2409.11321), algorithm 3; the first step only makes the basis, sides
             over the limit have none, one power iteration and QR every N steps, eigenvalues sorted, as the
             authors' implementation does
Usage: make_optim.py OUT.safetensors
"""
import math
import sys

import torch
from safetensors.torch import save_file

STEPS, LR, WD, EPS, B1, B2 = 8, 0.02, 0.1, 1e-8, 0.9, 0.95
ALPHA, B3, CLIP = 5.0, 0.99, 1.0
GF_ALPHA, GF_LAMB, EMA = 0.98, 2.0, 0.6
EVERY, SIDE, SOAP_B1, SOAP_B2 = 3, 10, 0.95, 0.95
SHAPES = {
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.norm.weight": (8,),
}


def decay(w):
    return WD if w.dim() > 1 else 0.0


def clipped(grads):
    norm = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
    k = min(1.0, CLIP / norm)
    return {n: g * k for n, g in grads.items()}


def adamw(w0, grads, ema=None):
    """torch.optim.AdamW over all steps; the average of its weights when ema is given."""
    w = {n: torch.nn.Parameter(x.clone()) for n, x in w0.items()}
    groups = [{"params": [p], "weight_decay": decay(p)} for p in w.values()]
    opt = torch.optim.AdamW(groups, lr=LR, betas=(B1, B2), eps=EPS)
    mean = {n: x.clone() for n, x in w0.items()}
    for t, g in enumerate(grads, 1):
        for n, p in w.items():
            p.grad = g[n].clone()
        opt.step()
        d = min(ema, (1 + t) / (10 + t)) if ema else 0
        mean = {n: d * mean[n] + (1 - d) * p.detach() for n, p in w.items()}
    return mean


def ademamix(w0, grads):
    w = {n: x.clone() for n, x in w0.items()}
    m1, m2, v = ({n: torch.zeros_like(x) for n, x in w0.items()} for _ in range(3))
    for t, g in enumerate(grads, 1):
        alpha = min(t * ALPHA / STEPS, ALPHA)
        x = t / STEPS
        b3 = min(math.exp(math.log(B1) * math.log(B3) / ((1 - x) * math.log(B3) + x * math.log(B1))), B3)
        for n in w:
            m1[n] = B1 * m1[n] + (1 - B1) * g[n]
            m2[n] = b3 * m2[n] + (1 - b3) * g[n]
            v[n] = B2 * v[n] + (1 - B2) * g[n] ** 2
            m1h, vh = m1[n] / (1 - B1**t), v[n] / (1 - B2**t)
            w[n] = w[n] - LR * ((m1h + alpha * m2[n]) / (vh.sqrt() + EPS) + decay(w[n]) * w[n])
    return w


def grokfast(grads):
    """Filtered gradients: the first one starts the average."""
    mean, out = None, []
    for g in grads:
        mean = dict(g) if mean is None else mean
        mean = {n: mean[n] * GF_ALPHA + g[n] * (1 - GF_ALPHA) for n in g}
        out.append({n: g[n] + GF_LAMB * mean[n] for n in g})
    return out


class Side:
    """One side of a matrix: Shampoo's factor and its eigenbasis (columns), none above the limit."""

    def __init__(self, n):
        self.on, self.gg, self.q = n <= SIDE, torch.zeros(n, n, dtype=torch.float64), None

    def lerp(self, outer):
        self.gg = SOAP_B2 * self.gg + (1 - SOAP_B2) * outer

    def first(self):
        self.q = torch.linalg.eigh(self.gg).eigenvectors.flip(1)

    def refresh(self):
        order = torch.argsort(torch.diag(self.q.T @ self.gg @ self.q), descending=True)
        self.q = torch.linalg.qr(self.gg @ self.q[:, order]).Q
        return order


def project(x, left, right, back=False):
    if left.on:
        x = (left.q if back else left.q.T) @ x
    if right.on:
        x = x @ (right.q.T if back else right.q)
    return x


def soap_matrix(w, grads):
    left, right = Side(w.shape[0]), Side(w.shape[1])
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for step, g in enumerate(grads):  # step 0 makes the preconditioner only
        if step:
            m = SOAP_B1 * m + (1 - SOAP_B1) * g
            gp = project(g, left, right)
            v = SOAP_B2 * v + (1 - SOAP_B2) * gp**2
            size = LR * math.sqrt(1 - SOAP_B2**step) / (1 - SOAP_B1**step)
            update = project(project(m, left, right) / (v.sqrt() + EPS), left, right, back=True)
            w = w * (1 - LR * WD) - size * update
        for s, outer in ((left, g @ g.T), (right, g.T @ g)):
            if s.on:
                s.lerp(outer)
                if not step:
                    s.first()
        if step and step % EVERY == 0:
            if left.on:
                v = v[left.refresh(), :]
            if right.on:
                v = v[:, right.refresh()]
    return w


def soap(w0, grads):
    out = adamw(w0, grads)
    for n, x in w0.items():
        if x.dim() > 1:
            out[n] = soap_matrix(x, [g[n] for g in grads])
    return out


def gradient(shape):
    """Matrices with well separated singular values, so that a basis of them is well determined."""
    if len(shape) == 1:
        return torch.randn(shape, dtype=torch.float64)
    u, _ = torch.linalg.qr(torch.randn(shape[0], shape[0], dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(shape[1], shape[1], dtype=torch.float64))
    k = min(shape)
    s = torch.zeros(shape, dtype=torch.float64)
    s[range(k), range(k)] = 2.0 ** -torch.arange(k, dtype=torch.float64) * 0.5 + 0.05
    return u @ s @ v.T


def main():
    torch.manual_seed(4)
    w0 = {n: (0.1 * torch.randn(s, dtype=torch.float64)).float().double() for n, s in SHAPES.items()}
    base = {n: gradient(s) for n, s in SHAPES.items()}
    grads = [{n: (base[n] + 0.3 * gradient(s)).float().double() for n, s in SHAPES.items()}
             for _ in range(STEPS)]
    runs = {
        "ademamix": ademamix(w0, grads),
        "grokfast": adamw(w0, [clipped(g) for g in grokfast(grads)]),
        "ema": adamw(w0, grads, ema=EMA),
        "soap": soap(w0, grads),
    }
    out = {"w0." + n: x for n, x in w0.items()}
    for i, g in enumerate(grads):
        out.update({f"g{i + 1}." + n: x for n, x in g.items()})
    for k, w in runs.items():
        out.update({f"{k}." + n: x for n, x in w.items()})
    save_file({n: x.float().contiguous() for n, x in out.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
