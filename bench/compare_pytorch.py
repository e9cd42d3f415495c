#!/usr/bin/env python3
"""The same shapes in PyTorch and transformers on the same cores, in turn with Fathom; prints both and the ratio.

    bench/compare_pytorch.py [train] [gemm] [--preset nano] [--threads 2] [--fathom build/fathom] [--rounds 3]
                             [--seq 512] [--rows 32] [--compile] [--dtypes f32,bf16] [--ours bf16] [--seconds 20]

train: a whole step (forward, backward, clipping, AdamW) of DeepseekV3ForCausalLM with the preset's configuration and
random tokens, beside `fathom bench train`. gemm: torch.matmul at the shapes that `fathom bench gemm` reports, operands
cold, the same number of copies in turn. One JSON object a line: name, shape, fathom, pytorch, unit, ratio (of the
medians; above 1 Fathom is faster). Other work on the machine meets both: rounds alternate.

ATEN_CPU_CAPABILITY=avx2 with --isa avx2 --ours f32 compares at the level of most laptops. That variable binds PyTorch's own
kernels only: its products stay on AVX-512 unless ONEDNN_MAX_CPU_ISA=AVX2 and MKL_ENABLE_INSTRUCTIONS=AVX2 are set too."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

PRESETS = {  # hidden, layers, dense, heads, q rank, kv rank, nope, rope, v, ffn, experts, chosen, shared, width, vocab
    "nano": (256, 6, 1, 4, 96, 64, 32, 16, 32, 704, 16, 4, 1, 128, 4096),
    "micro": (512, 8, 1, 8, 192, 128, 32, 16, 32, 1408, 32, 4, 1, 192, 8192),
    "mini": (1024, 16, 1, 16, 384, 256, 64, 64, 64, 2816, 64, 6, 1, 512, 32768),
}


def out(**fields):
    print(json.dumps(fields), flush=True)


def fathom(args, *words):
    cmd = [args.fathom, "bench", *words, "--json", "--threads", str(args.threads)]
    if args.isa:
        cmd += ["--isa", args.isa]
    run = subprocess.run(cmd, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(cmd)}: {run.stderr.strip()}")
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def model_of(args, torch):
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
    (d, layers, dense, heads, q, kv, nope, rope, v, ffn, experts, chosen, shared, width, vocab) = PRESETS[args.preset]
    config = DeepseekV3Config(
        vocab_size=vocab, hidden_size=d, intermediate_size=ffn, moe_intermediate_size=width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, n_shared_experts=shared, n_routed_experts=experts,
        routed_scaling_factor=2.5, kv_lora_rank=kv, q_lora_rank=q, qk_rope_head_dim=rope, v_head_dim=v,
        qk_nope_head_dim=nope, n_group=1, topk_group=1, num_experts_per_tok=chosen, first_k_dense_replace=dense,
        norm_topk_prob=True, max_position_embeddings=2048, use_cache=False, num_mtp_layers=0)
    torch.manual_seed(1)
    return DeepseekV3ForCausalLM(config), vocab


class Step:
    """One optimizer step of `rows` rows in micro-batches, as a trainer would write it."""

    def __init__(self, args, torch, dtype, compiled, experts):
        self.torch, self.rows, self.seq, self.micro = torch, args.rows, args.seq, args.micro
        self.model, vocab = model_of(args, torch)
        if experts and hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation(experts)
        self.model = self.model.to(torch.bfloat16 if dtype == "bf16" else torch.float32).train()
        self.params = list(self.model.parameters())
        self.optim = torch.optim.AdamW(self.params, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.ids = torch.randint(0, vocab, (args.rows, args.seq))
        self.run = torch.compile(self.model) if compiled else self.model

    def __call__(self):
        for at in range(0, self.rows, self.micro):
            ids = self.ids[at:at + self.micro]
            self.run(input_ids=ids, labels=ids).loss.mul(len(ids) / self.rows).backward()
        self.torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optim.step()
        self.optim.zero_grad(set_to_none=True)
        return self.rows * self.seq


def train(args, torch):
    variants = []
    for dtype in args.dtypes.split(","):
        for experts in args.experts.split(","):
            for compiled in ([False, True] if args.compile else [False]):
                name = f"{dtype} {'compiled' if compiled else 'eager'} {experts}"
                try:
                    step = Step(args, torch, dtype, compiled, experts if experts != "default" else None)
                    step()  # the first is not counted
                    variants.append((name, step, []))
                except Exception as e:  # noqa: BLE001: a variant that this PyTorch lacks is left out, and said
                    out(name="train_tokens", shape=name, skipped=str(e).splitlines()[0][:160])
    ours = []
    for _ in range(args.rounds):
        line = fathom(args, "train", "--preset", args.preset, "--rows", str(args.rows), "--seq", str(args.seq),
                      "--precision", args.ours)[0]
        ours.append(line["value"])
        for _, step, speeds in variants:
            begin = time.perf_counter()
            tokens, n = 0, 0
            while n == 0 or time.perf_counter() - begin < args.seconds / args.rounds / max(1, len(variants)):
                tokens += step()
                n += 1
            speeds.append(tokens / (time.perf_counter() - begin))
    mine = statistics.median(ours)
    best = 0.0
    for name, _, speeds in variants:
        theirs = statistics.median(speeds)
        best = max(best, theirs)
        out(name="train_tokens", shape=f"{args.preset} {args.rows} x {args.seq} {name}", fathom=mine, pytorch=theirs,
            unit="tokens/s", ratio=mine / theirs, rounds=args.rounds, ours=args.ours)
    if best:
        out(name="train_tokens_best", shape=f"{args.preset} {args.rows} x {args.seq}", fathom=mine, pytorch=best,
            unit="tokens/s", ratio=mine / best, rounds=args.rounds)


def torch_gemm(torch, kind, dtype, m, n, k, seconds):
    """FLOP/s of the product with cold operands: the largest of the copies in turn that 384 MB hold."""
    t = torch.bfloat16 if dtype == "bf16" else torch.float32
    size = 2 if dtype == "bf16" else 4
    copies = max(2, min(512, (384 << 20) // (size * (m * k + n * k + m * n))))
    a_shape, b_shape = ((k, m), (k, n)) if kind == "TN" else ((m, k), (n, k) if kind == "NT" else (k, n))
    sets = [(torch.randn(a_shape, dtype=t), torch.randn(b_shape, dtype=t), torch.zeros((m, n), dtype=t))
            for _ in range(copies)]

    def call(a, b, c):
        torch.matmul(a.T if kind == "TN" else a, b.T if kind == "NT" else b, out=c)

    call(*sets[0])
    rates, i, end = [], 1, time.perf_counter() + seconds
    while len(rates) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        n_calls = 0
        while n_calls < 2 or time.perf_counter() - begin < 0.004:
            call(*sets[i % copies])
            i += 1
            n_calls += 1
        rates.append(2.0 * m * n * k * n_calls / (time.perf_counter() - begin))
    return statistics.median(rates)


def gemm(args, torch):
    for dtype in args.dtypes.split(","):
        for r in range(args.rounds):
            lines = fathom(args, "gemm", "--preset", args.preset, "--precision", dtype)
            if r == 0:
                seen = {}
            for line in lines:
                words = line["shape"].split()
                if "grouped" in words or words[-2] != "cold":
                    continue
                kind, precision, m, n, k = words[0], words[1].lower(), int(words[2]), int(words[4]), int(words[6])
                key = (line["name"], kind, "f32" if precision == "f32" else "bf16", m, n, k)
                if key[2] != dtype:
                    continue
                mine, theirs = seen.setdefault(key, ([], []))
                mine.append(line["value"])
                theirs.append(torch_gemm(torch, kind, dtype, m, n, k, args.seconds / args.rounds / 60))
        for (name, kind, precision, m, n, k), (mine, theirs) in seen.items():
            a, b = statistics.median(mine), statistics.median(theirs)
            out(name=name, shape=f"{kind} {precision} {m} x {n} x {k} cold", fathom=a, pytorch=b, unit="FLOP/s",
                ratio=a / b, rounds=args.rounds)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", nargs="*", default=["train", "gemm"])
    p.add_argument("--preset", default="nano", choices=PRESETS)
    p.add_argument("--fathom", default="build/fathom")
    p.add_argument("--isa")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rows", type=int, default=32)
    p.add_argument("--seq", type=int, default=512)
    p.add_argument("--micro", type=int, default=8, help="rows of a PyTorch micro-batch")
    p.add_argument("--dtypes", default="f32,bf16", help="of PyTorch in train, of both in gemm")
    p.add_argument("--ours", default="bf16", help="precision of Fathom in train")
    p.add_argument("--experts", default="default", help="default,grouped_mm,batched_mm: as transformers names them")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--seconds", type=float, default=30, help="about the time PyTorch gets")
    args = p.parse_args()
    import torch
    torch.set_num_threads(args.threads)
    out(name="versions", pytorch=torch.__version__, threads=args.threads, isa=args.isa,
        capability=torch.backends.cpu.get_cpu_capability(), date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    for what in args.what:
        {"train": train, "gemm": gemm}[what](args, torch)


if __name__ == "__main__":
    main()
