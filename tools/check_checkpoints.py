#!/usr/bin/env python3
"""Open every .safetensors file fathom writes with the safetensors package.

A run's checkpoints and trainer states, and what init (bf16, f32), convert (f32, shards, --no-mtp), logits
and grad write: every tensor loads and is finite, the metadata is there, indexes name the right shards.

Usage: check_checkpoints.py RUN FATHOM
"""
import argparse, glob, json, os, shutil, tempfile
from safetensors import safe_open
from oracle import check, fathom, finish, last_checkpoint


def tensors(path):
    """name -> (dtype, shape) of one file, all read; the file must be finite throughout."""
    out = {}
    with safe_open(path, "pt") as f:
        meta = f.metadata()
        for k in f.keys():
            t = f.get_tensor(k)
            assert t.is_floating_point() is False or bool(t.float().isfinite().all()), (path, k)
            out[k] = (str(t.dtype), tuple(t.shape))
    return meta, out


def one(path):
    try:
        meta, t = tensors(path)
        return check(path, len(t) > 0, f"{len(t)} tensors, {os.path.getsize(path)} bytes, {sorted({d for d, _ in t.values()})}, {meta}")
    except Exception as e:
        return check(path, False, f"{type(e).__name__}: {e}")


def tree(d):
    for f in sorted(glob.glob(os.path.join(glob.escape(d), "**", "*.safetensors"), recursive=True)):
        one(f)
    for f in glob.glob(os.path.join(glob.escape(d), "**", "*.index.json"), recursive=True):
        index = json.load(open(f))
        where, size = {}, 0
        for s in sorted(set(index["weight_map"].values())):
            with safe_open(os.path.join(os.path.dirname(f), s), "pt") as g:
                where.update({k: s for k in g.keys()})
                size += sum(g.get_tensor(k).nbytes for k in g.keys())
        check(f, where == index["weight_map"] and index["metadata"]["total_size"] == size, f"{len(where)} tensors, {size} bytes")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("run"); ap.add_argument("fathom")
    a = ap.parse_args()
    m = last_checkpoint(a.run)
    tmp = tempfile.mkdtemp()
    try:
        at = lambda *p: os.path.join(tmp, *p)
        fathom(a.fathom, "init", "--preset", "pico", "--out", at("pico-bf16"))
        fathom(a.fathom, "init", "--preset", "pico", "--precision", "f32", "--out", at("pico-f32"))
        fathom(a.fathom, "convert", "--model", m, "--dtype", "f32", "--out", at("f32"))
        fathom(a.fathom, "convert", "--model", m, "--shard-bytes", "4000000", "--out", at("shards"))
        fathom(a.fathom, "convert", "--model", m, "--no-mtp", "--out", at("no-mtp"))
        json.dump([list(range(3, 67))], open(at("ids.json"), "w"))
        fathom(a.fathom, "logits", "--model", m, "--ids", at("ids.json"), "--hidden", "--mtp", "--out", at("logits.safetensors"))
        fathom(a.fathom, "grad", "--model", m, "--ids", at("ids.json"), "--out", at("grad.safetensors"))
        tree(a.run)
        tree(tmp)
        whole = tensors(os.path.join(m, "model.safetensors"))[1]
        parts = {}
        for f in glob.glob(at("shards", "*.safetensors")):
            parts.update(tensors(f)[1])
        check("shards together hold the same tensors", parts == whole, f"{len(parts)} of {len(whole)}")
        state = tensors(os.path.join(m, "trainer", "optimizer.safetensors"))[1]
        for k, (dtype, shape) in whole.items():
            if "master." + k in state and state["master." + k][1] != shape:
                check(f"shape of master.{k}", False, f"{state['master.' + k][1]}, stored {shape}")
        n = sum("master." + k in state for k in whole)
        check("a master for every weight", n == sum("e_score" not in k for k in whole) or n == len(whole), f"{n} of {len(whole)}")
    finally:
        shutil.rmtree(tmp)
    finish()


if __name__ == "__main__":
    main()
