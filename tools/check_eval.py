#!/usr/bin/env python3
"""Recompute a run's last held-out bits per byte with transformers in float32.

Every held-out document, cut into windows of data.seq targets from its start, through
AutoModelForCausalLM. fathom evaluates in the run's precision and cuts a long document where a packed row
ends, so the two agree to about a percent, not to the digit.

Usage: check_eval.py RUN
"""
import argparse, configparser, json, math, os
import torch, transformers
from transformers import AutoModelForCausalLM
from oracle import check, finish, last_checkpoint, shards


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("run")
    run = ap.parse_args().run
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    recipe = configparser.ConfigParser(interpolation=None)
    recipe.read(os.path.join(run, "recipe.ini"))
    seq = int(recipe["data"]["seq"])
    model = AutoModelForCausalLM.from_pretrained(last_checkpoint(run), dtype=torch.float32).eval()
    nats, targets, n_bytes = 0.0, 0, 0
    for s in shards(run, "val"):
        n_bytes += s.n_bytes
        for i in range(len(s)):
            d = torch.from_numpy(s.document(i))
            for at in range(0, len(d) - 1, seq):
                w = d[at:at + seq + 1]
                with torch.no_grad():
                    logits = model(input_ids=w[None, :-1]).logits[0]
                nats += torch.nn.functional.cross_entropy(logits.double(), w[1:], reduction="sum").item()
                targets += len(w) - 1
    last = [json.loads(x) for x in open(os.path.join(run, "metrics.jsonl")) if "val_loss" in x][-1]
    bits = nats / math.log(2) / n_bytes
    check("the number of targets", targets == last["val_targets"], f"{targets}, logged {last['val_targets']}")
    check("held-out bits per byte within 1%", abs(bits / last["val_bits_per_byte"] - 1) < 0.01,
          f"transformers {bits:.5f}, logged {last['val_bits_per_byte']:.5f}")
    check("nats per target within 1%", abs(nats / targets / last["val_loss"] - 1) < 0.01,
          f"transformers {nats / targets:.5f}, logged {last['val_loss']:.5f}")
    finish()


if __name__ == "__main__":
    main()
