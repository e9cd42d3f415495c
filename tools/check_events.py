#!/usr/bin/env python3
"""Read a run's event files with TensorBoard's own reader and hold them against metrics.jsonl.

Every scalar of every step and evaluation is there once, equal as float32, also after resumes
(what a killed run wrote past its checkpoint is purged by the session start of the next file); every
file opens with the version and a session start.

Usage: check_events.py RUN
"""
import argparse, glob, json, os
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from oracle import check, finish


def expected(run):
    """tag -> [(step, value)] as metrics.jsonl has them."""
    out = {}
    add = lambda tag, step, v: out.setdefault(tag, []).append((step, v))
    for line in open(os.path.join(run, "metrics.jsonl")):
        r = json.loads(line)
        if "val_loss" in r:
            add("val/bits_per_byte", r["step"], r["val_bits_per_byte"]); add("val/loss", r["step"], r["val_loss"])
            continue
        for k in ("loss", "mtp_loss", "balance_loss", "bits_per_byte", "grad_norm", "lr", "tokens", "tokens_per_second"):
            add("train/" + k, r["step"], r[k])
        for b in r["layers"]:
            for k in ("max_vio", "max_vio_50", "dead", "entropy"):
                add(f"balance/layer_{b['layer']}/{k}", r["step"], b[k])
            add(f"balance/layer_{b['layer']}/bias_range", r["step"], b["bias_max"] - b["bias_min"])
    return out


def close(tag, a, b):
    """float32 of the same double; the log has nine digits, one decimal of tokens_per_second."""
    limit = 0.051 if tag.endswith("tokens_per_second") else 2e-8 if tag.endswith("bias_range") else 0
    return abs(np.float32(a) - np.float32(b)) <= max(limit, 2 * np.spacing(np.float32(abs(b))))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("run")
    run = ap.parse_args().run
    files = sorted(glob.glob(os.path.join(run, "events.out.tfevents.*")))
    starts = []
    for f in files:
        events = list(EventFileLoader(f).Load())
        s = [e for e in events if e.HasField("session_log") and e.session_log.status == SessionLog.START]
        check(f"{os.path.basename(f)}: version and session start first",
              len(events) > 1 and events[0].file_version == "brain.Event:2" and len(s) == 1 and events[1] == s[0],
              f"{len(events)} events, start at {s[0].step if s else None}")
        starts += [e.step for e in s]
    acc = EventAccumulator(run, size_guidance=dict(scalars=0, tensors=0))
    acc.Reload()
    want = expected(run)
    have = {t: [(e.step, float(np.asarray(e.tensor_proto.float_val[0]))) for e in acc.Tensors(t)] for t in acc.Tags()["tensors"]}
    have.update({t: [(e.step, e.value) for e in acc.Scalars(t)] for t in acc.Tags()["scalars"]})
    check("the same tags", sorted(have) == sorted(want), f"{len(have)} tags; {sorted(set(have) ^ set(want))[:6]}")
    n = bad = 0
    for tag, rows in want.items():
        got = have.get(tag, [])
        steps = [s for s, _ in got] == [s for s, _ in rows]
        if not steps:
            lost = sorted(set(s for s, _ in rows) - set(s for s, _ in got))
            check(f"steps of {tag}", False, f"{len(got)} in the events, {len(rows)} in the log; lost {lost[:6]}")
            continue
        n += len(rows)
        bad += sum(not close(tag, x, y) for (_, x), (_, y) in zip(got, rows))
    check("every scalar equals metrics.jsonl", bad == 0 and n > 0, f"{n} values, {bad} differ, {len(files)} files, starts {starts}")
    finish()


if __name__ == "__main__":
    main()
