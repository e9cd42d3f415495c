"""What the check_*.py scripts share: calling fathom, reading token shards, saying what held.

Python oracles only: neither the build nor a test needs them (torch, transformers, safetensors,
tokenizers, tensorboard, numpy, jinja2 as each script imports them).
"""
import json, os, subprocess, sys
import numpy as np

failures = []


def check(name, good, found=""):
    """One line per check; the script's exit status is 1 if any failed."""
    print(f"{'ok  ' if good else 'FAIL'} {name}{': ' if found else ''}{found}", flush=True)
    if not good:
        failures.append(name)
    return good


def finish():
    print(f"{len(failures)} failed" if failures else "all passed")
    sys.exit(1 if failures else 0)


def fathom(program, *args, text=None):
    """Standard output of a fathom command; a failure ends the script with its message."""
    data = text.encode() if isinstance(text, str) else text
    r = subprocess.run([program, *map(str, args)], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if r.returncode:
        sys.exit(f"{program} {' '.join(map(str, args))}: exit {r.returncode}: {r.stderr.decode()[-2000:]}")
    return r.stdout.decode()


def json_lines(text):
    """Objects of a text of JSON lines. Only \\n ends a line (splitlines would cut at U+2028 too)."""
    return [json.loads(line) for line in text.split("\n") if line]


def distance(a, b):
    """Largest difference over the largest value of b."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())


class Shard:
    """A token shard (docs/formats.md): tokens, first token of each document, UTF-8 bytes of each."""

    def __init__(self, path):
        raw = np.fromfile(path, dtype=np.uint8)
        head = raw[:128].tobytes()
        assert head[:8] == b"FMTOKENS", path
        self.version, width = np.frombuffer(head, "<u4", 2, 8)
        self.vocab, self.tokenizer, n_doc, n_tok, self.n_bytes, length = map(int, np.frombuffer(head, "<u8", 6, 16))
        assert self.version == 1 and length == raw.size, path
        self.tokens = np.frombuffer(raw, "<u2" if width == 2 else "<u4", n_tok, 128).astype(np.int64)
        at = 128 + (int(width) * n_tok + 7) // 8 * 8
        self.first = np.frombuffer(raw, "<u8", n_doc + 1, at).astype(np.int64)
        self.bytes = np.frombuffer(raw, "<u8", n_doc, at + 8 * (n_doc + 1)).astype(np.int64)
        assert int(self.first[-1]) == n_tok and int(self.bytes.sum()) == self.n_bytes, path

    def __len__(self):
        return len(self.bytes)

    def document(self, i):
        return self.tokens[self.first[i]:self.first[i + 1]]


def shards(run, split):
    """The shards of a run's split, "train" or "val"."""
    data = os.path.join(run, "data")
    meta = json.load(open(os.path.join(data, "data.json")))
    return [Shard(os.path.join(data, f)) for f in meta[split]["shards"]]


def corpus_text(path):
    if path.endswith(".zst"):
        return subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout.decode()
    return open(path, newline="", encoding="utf-8").read()


def last_checkpoint(run):
    d = os.path.join(run, "checkpoints")
    return os.path.join(d, max((n for n in os.listdir(d) if n.isdigit()), key=int))
