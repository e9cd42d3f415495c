#!/usr/bin/env python3
"""Held-out bits per byte of n-gram models on a run's own shards, to hold beside the trained model's.

A token bigram with the run's tokenizer, interpolated two ways: Kneser-Ney with one absolute discount,
and add-k towards the unigram with the k that serves the held-out text best (in its favour). A byte 6-gram,
Kneser-Ney, on the decoded text of the same documents. Both train on every token of the run's train split,
weights included, and predict the same documents to their end.

Usage: bigram.py RUN FATHOM [--json]
"""
import argparse, json
import numpy as np
from oracle import fathom, last_checkpoint, shards


def grouped(codes, weight=None):
    """Distinct codes, ascending, and the number (or weight) of each."""
    if weight is None:
        return np.unique(codes, return_counts=True)
    first = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])        # codes ascend
    return codes[first], np.add.reduceat(weight, first)


def find(table, codes):
    """Values of a (keys, values) table; 0 where a code is not in it."""
    keys, values = table
    i = np.minimum(np.searchsorted(keys, codes), keys.size - 1)
    return np.where(keys[i] == codes, values[i], 0)


class KneserNey:
    """Interpolated, one discount per order; orders below the highest count distinct left neighbours."""

    def __init__(self, grams, base, order):
        self.base, self.order, self.levels = base, order, []
        keys, n = grouped(grams)
        for k in range(order, 0, -1):
            once, twice = int((n == 1).sum()), int((n == 2).sum())
            discount = once / (once + 2 * twice) if once else 0.5
            total = grouped(keys // base, n)
            kinds = grouped(keys // base, np.ones_like(n))
            self.levels.append((k, (keys, n), total, kinds, discount))
            keys, n = grouped(np.sort(keys % base ** (k - 1))) if k > 1 else (None, None)

    def probability(self, grams):
        p = np.full(grams.shape, 1.0 / self.base)
        for k, counts, total, kinds, d in reversed(self.levels):
            g = grams % self.base ** k
            c, t, u = find(counts, g), find(total, g // self.base), find(kinds, g // self.base)
            seen = np.maximum(t, 1)
            p = np.where(t > 0, (np.maximum(c - d, 0) + d * u * p) / seen, p)
        return p


def windows(documents, order, mark):
    """Codes, base mark+1, of every window of `order` symbols that ends in a document or at its end mark;
    before the document stand marks."""
    base, out = mark + 1, []
    for d in documents:
        s = np.concatenate((np.full(order - 1, mark), d, [mark])).astype(np.int64)
        code = np.zeros(len(d) + 1, dtype=np.int64)
        for i in range(order):
            code = code * base + s[i:i + len(d) + 1]
        out.append(code)
    return np.concatenate(out)


def pairs(parts):
    """Two arrays: every token and the one after it, within documents."""
    a = [(s.document(i)[:-1], s.document(i)[1:]) for s in parts for i in range(len(s))]
    return np.concatenate([x for x, _ in a]), np.concatenate([y for _, y in a])


def token_bigram(train, val):
    V, n_bytes = train[0].vocab, sum(s.n_bytes for s in val)
    (a, b), (x, y) = pairs(train), pairs(val)
    p = KneserNey(a * V + b, V, 2).probability(x * V + y)
    uni = (np.bincount(b, minlength=V) + 1.0) / (b.size + V)
    both, left = np.bincount(a * V + b, minlength=V * V), np.bincount(a, minlength=V)
    add = {k: float(-np.log2((both[x * V + y] + k * uni[y]) / (left[x] + k)).sum() / n_bytes) for k in 2.0 ** np.arange(-2, 13)}
    k = min(add, key=add.get)
    return dict(kneser_ney=float(-np.log2(p).sum() / n_bytes), add_k=add[k], k=float(k), targets=int(y.size), bytes=n_bytes,
                train_tokens=int(b.size), note="token bigram, the run's tokenizer and shards")


def texts(program, model, parts):
    ids = "".join(json.dumps(s.document(i).tolist()) + "\n" for s in parts for i in range(len(s)))
    out = fathom(program, "tokenizer", "decode", "--model", model, "--jsonl", "--skip-special", text=ids)
    return [np.frombuffer(json.loads(line)["text"].encode(), np.uint8) for line in out.split("\n") if line]


def byte_model(train, val, order=6):
    m = KneserNey(windows(train, order, 256), 257, order)
    n_bytes = sum(len(d) for d in val)
    return dict(kneser_ney=float(-np.log2(m.probability(windows(val, order, 256))).sum() / n_bytes), order=order, bytes=n_bytes,
                train_bytes=sum(len(d) for d in train), note="byte model on the same text")


def measure(run, program):
    train, val = shards(run, "train"), shards(run, "val")
    model = last_checkpoint(run)
    r = dict(token_bigram=token_bigram(train, val))
    r["byte_6gram"] = byte_model(texts(program, model, train), texts(program, model, val))
    last = [json.loads(x) for x in open(f"{run}/metrics.jsonl") if "val_bits_per_byte" in x][-1]
    r["model"] = dict(bits_per_byte=last["val_bits_per_byte"], step=last["step"], tokens=last["tokens"], targets=last["val_targets"])
    return r


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("run"); ap.add_argument("fathom"); ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    r = measure(a.run, a.fathom)
    if a.json:
        print(json.dumps(r, indent=1))
        return
    g, b, m = r["token_bigram"], r["byte_6gram"], r["model"]
    print(f"token bigram  {g['kneser_ney']:.4f} bits per byte (Kneser-Ney), {g['add_k']:.4f} (add-k, k {g['k']:g}), "
          f"{g['targets']} targets, {g['bytes']} bytes, {g['train_tokens']} tokens seen")
    print(f"byte 6-gram   {b['kneser_ney']:.4f} bits per byte (Kneser-Ney), {b['bytes']} bytes, {b['train_bytes']} bytes seen")
    print(f"the model     {m['bits_per_byte']:.4f} bits per byte, {m['targets']} targets, step {m['step']}, {m['tokens']} tokens seen")


if __name__ == "__main__":
    main()
