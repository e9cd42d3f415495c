#!/usr/bin/env python3
"""One JSON object about a finished run, for bench/results.

Held-out bits per byte beside a token bigram's and a byte 6-gram's, tokens per second (median step),
MaxVio of the worst layer on loads summed over the last 50 steps (MTP included), and what drafting does on
prompts from held-out documents, greedy and sampled: accepted drafts, main forwards per token, and whether
the text equals --draft off byte for byte (each prompt alone, a process each). --twin RUN adds the dense
twin trained on the same data and steps. Exit 1 if a text differs.

Usage: collect_run.py RUN FATHOM [--out FILE] [--twin RUN] [--prompts 200] [--tokens 64] [--command TEXT]
"""
import argparse, concurrent.futures, configparser, datetime, json, os, platform, statistics, subprocess, sys, tempfile
import numpy as np
import bigram
from oracle import fathom, last_checkpoint, shards

PROMPT_TOKENS = 24


def metrics(run):
    rows = [json.loads(x) for x in open(os.path.join(run, "metrics.jsonl"))]
    return [r for r in rows if "loss" in r], [r for r in rows if "val_loss" in r]


def curves(run):
    """What the log says of a run's end and speed."""
    steps, evals = metrics(run)
    e, s = evals[-1], steps[-1]
    vio = {str(b["layer"]): b["max_vio_50"] for b in s["layers"]}
    return dict(step=s["step"], tokens=s["tokens"], seconds=s["elapsed"], train_loss=s["loss"],
                val_loss=e["val_loss"], val_bits_per_byte=e["val_bits_per_byte"], val_targets=e["val_targets"], val_step=e["step"],
                best_bits_per_byte=min(x["val_bits_per_byte"] for x in evals),
                tokens_per_second_median=statistics.median(x["tokens_per_second"] for x in steps),
                max_vio_50=vio, max_vio_50_worst=max(vio.values(), default=0.0), dead=max((b["dead"] for b in s["layers"]), default=0))


def prompts(run, n):
    """Pieces of held-out documents: every document in turn, from its start and then from places within."""
    parts = [(s, i) for s in shards(run, "val") for i in range(len(s)) if s.first[i + 1] - s.first[i] > PROMPT_TOKENS + 2]
    rng, out = np.random.default_rng(1), []
    while len(out) < n:
        s, i = parts[len(out) % len(parts)]
        d = s.document(i).tolist()
        at = 0 if len(out) < len(parts) else int(rng.integers(0, len(d) - PROMPT_TOKENS - 1))
        out.append((d[:1] if at else []) + d[at:at + PROMPT_TOKENS])
    return out


def drafting(program, model, asked, tokens, temperature, precision, jobs):
    def ask(i):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump([asked[i]], f); f.flush()
            both = [json.loads(fathom(program, "generate", "--model", model, "--ids", f.name, "--tokens", tokens,
                                      "--temperature", temperature, "--seed", i + 1, "--threads", 1, "--precision", precision,
                                      "--draft", d, "--json")) for d in ("off", "mtp")]
        return both
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(ask, range(len(asked))))
    total = lambda k, key: sum(r[k][key] for r in rows)
    n = sum(len(r[1]["ids"]) for r in rows)
    return dict(prompts=len(rows), temperature=temperature, precision=precision, tokens=n,
                texts_equal=sum(a["text"] == b["text"] and a["ids"] == b["ids"] for a, b in rows),
                drafted=total(1, "drafted"), accepted=total(1, "accepted"), acceptance=total(1, "accepted") / max(1, total(1, "drafted")),
                main_forwards=total(1, "main_forwards"), main_forwards_per_token=total(1, "main_forwards") / n,
                main_forwards_off_per_token=total(0, "main_forwards") / n)


def processor():
    names = {x.split(":", 1)[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")}
    return f"{', '.join(sorted(names)) or platform.processor()}; {os.cpu_count()} processors"


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("run"); ap.add_argument("fathom"); ap.add_argument("--out"); ap.add_argument("--twin")
    ap.add_argument("--prompts", type=int, default=200); ap.add_argument("--tokens", type=int, default=64)
    ap.add_argument("--precision", default="bf16"); ap.add_argument("--jobs", type=int, default=2); ap.add_argument("--command")
    a = ap.parse_args()
    recipe = configparser.ConfigParser(interpolation=None)
    recipe.read(os.path.join(a.run, "recipe.ini"))
    command = a.command or f"fathom {recipe['run']['command']} --preset {recipe['run']['preset']} --minutes {recipe['stop']['minutes']}"
    here = os.path.dirname(os.path.abspath(__file__))
    r = dict(name="run", command=command, date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
             commit=subprocess.run(["git", "-C", here, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE).stdout.decode().strip(),
             processor=processor(), **curves(a.run))
    n = bigram.measure(a.run, a.fathom)
    r["token_bigram_bits_per_byte"] = min(n["token_bigram"]["kneser_ney"], n["token_bigram"]["add_k"])
    r["byte_6gram_bits_per_byte"] = n["byte_6gram"]["kneser_ney"]
    m, asked = last_checkpoint(a.run), prompts(a.run, a.prompts)
    for key, t in (("draft_greedy", 0), ("draft_sampled", 0.8)):
        r[key] = drafting(a.fathom, m, asked, a.tokens, t, a.precision, a.jobs)
    if a.twin:
        r["dense_twin"] = curves(a.twin)
    limits = {"below the token bigram": r["val_bits_per_byte"] < r["token_bigram_bits_per_byte"], "MaxVio at most 0.1": r["max_vio_50_worst"] <= 0.1}
    for key in ("draft_greedy", "draft_sampled"):
        d = r[key]
        limits[f"{key}: text equal"] = d["texts_equal"] == d["prompts"]
        limits[f"{key}: acceptance at least 40%"] = d["acceptance"] >= 0.4
        limits[f"{key}: main forwards below 0.8 of tokens"] = d["main_forwards_per_token"] < 0.8
    if a.twin:
        limits["loss below the dense twin's"] = r["val_loss"] < r["dense_twin"]["val_loss"]
    r["limits"] = limits
    text = json.dumps(r, indent=1) + "\n"
    if a.out:
        with open(a.out, "w") as f:
            f.write(text)
    print(text, end="")
    sys.exit(any(not v for k, v in limits.items() if k.endswith("text equal")))


if __name__ == "__main__":
    main()
