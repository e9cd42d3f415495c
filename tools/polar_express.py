#!/usr/bin/env python3
"""Factors of Muon's Newton-Schulz steps: odd quintics that take singular values in [low, 1] to about 1.

Each step is the quintic a x + b x^3 + c x^5 whose largest distance from 1 on the interval is smallest, found by
exchanging its extrema (Remez); the next one works on what it leaves, [1 - e, 1 + e]. Greedy composition is optimal
(Amsel et al. 2025, arXiv 2505.16932, theorem 3.1). As there, the interval starts at 0.02 of its upper end at the
lowest, and all steps but the last allow arguments 1.01 times as large.

Usage: polar_express.py [STEPS [LOW]]            (3 0.01: src/train/muon.c)
"""
import sys
import numpy as np


def quintic(low, high):
    """a, b, c nearest to 1 on [low, high]."""
    inner = np.array([(3 * low + high) / 4, (low + 3 * high) / 4])
    for _ in range(100):
        x = np.array([low, *inner, high])
        a, b, c, _error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], 1), np.ones(4))
        root = np.sqrt(9 * b * b - 20 * a * c)
        last, inner = inner, np.sqrt(np.sort([(-3 * b - root) / (10 * c), (-3 * b + root) / (10 * c)]))
        if abs(inner - last).max() < 1e-14: break
    return np.array([a, b, c])


def apply(p, x):
    return p[0] * x + p[1] * x**3 + p[2] * x**5


def main():
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    low, high = float(sys.argv[2]) if len(sys.argv) > 2 else 0.01, 1.0
    end = np.linspace(low, high, 1 << 20)
    for i in range(steps):
        p = quintic(max(low, 0.02 * high), high)
        p *= 2 / (apply(p, low) + apply(p, high))       # the lower end may lie below what it was made for
        low = apply(p, low)
        high = 2 - low
        if i < steps - 1: p /= 1.01 ** np.array([1, 3, 5])
        end = apply(p, end)
        print(" ".join("%.4f" % v for v in p))
    print("singular values end in %.3f .. %.3f" % (end.min(), end.max()))


main()
