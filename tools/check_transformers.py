#!/usr/bin/env python3
"""Hold a checkpoint trained by fathom against PyTorch + transformers.

AutoModelForCausalLM and AutoTokenizer open it with no tensor unused but the multi-token-prediction
module's; float32 logits on text agree within 2e-5 of the largest value, expanded, absorbed and
through the cache; transformers' own MTP layer, filled from the checkpoint by transformers' own loader,
drafts the same tokens; its greedy generation with and without drafts is ours; generation config and
chat template load, and render as fathom chat-format does; convert --no-mtp leaves nothing unused.

Usage: check_transformers.py CHECKPOINT FATHOM [--text FILE] [--tokens N]
"""
import argparse, itertools, json, os, re, shutil, tempfile
import torch, transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.modeling_layers import MtpModel
from make_reference import mtp_logits
from oracle import check, corpus_text, distance, fathom, finish, json_lines

LIMIT = 2e-5


def open_model(path):
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager",
                                                       experts_implementation="eager", output_loading_info=True)
    return model.eval(), {k: sorted(v) for k, v in info.items() if k.endswith("_keys") and v}


def check_loading(path, model, info):
    layer = model.config.num_hidden_layers
    stored = load_file(os.path.join(path, "model.safetensors"))
    fused = lambda k: re.sub(r"experts\.\d+\.(gate|up)_proj\.weight", "experts.gate_up_proj",
                             re.sub(r"experts\.\d+\.down_proj\.weight", "experts.down_proj", k))
    mtp = [k for k in stored if k.startswith(f"model.layers.{layer}.")]
    unused = info.pop("unexpected_keys", [])        # transformers counts after it fused a layer's experts
    check("the MTP tensors, and no others, are unused", unused == sorted(set(map(fused, mtp))),
          f"{len(mtp)} of {len(stored)} tensors, {len(unused)} after fusing experts")
    check("nothing missing or mismatched", not info, str(info)[:300] if info else "")


def check_logits(path, program, model, ids, tmp):
    f = os.path.join(tmp, "ids.json")
    json.dump(ids, open(f, "w"))
    x = torch.tensor(ids)
    with torch.no_grad():
        o = model(input_ids=x, output_hidden_states=True)
    what = f"[{x.size(0)}, {x.size(1)}] tokens"
    ours = {}
    for name, extra in (("expanded", ["--hidden", "--mtp"]), ("absorbed", ["--mla", "absorbed", "--mtp"]),
                        ("in chunks of 7", ["--chunk", "7"]), ("token by token", ["--chunk", "1"])):
        out = os.path.join(tmp, "out.safetensors")
        fathom(program, "logits", "--model", path, "--ids", f, "--out", out, "--precision", "f32", *extra)
        ours[name] = load_file(out)
        d = distance(ours[name]["logits"], o.logits)
        check(f"logits, {name}, {what}", d <= LIMIT, f"{d:.2e} of the largest value")
    for i, h in enumerate(o.hidden_states):
        d = distance(ours["expanded"][f"hidden.{i}"], h)
        check(f"hidden.{i}", d <= LIMIT, f"{d:.2e}")
    same = (ours["expanded"]["logits"].argmax(-1) == o.logits.argmax(-1)).float().mean().item()
    check("the same next tokens", same == 1, f"{same:.4%}")
    return x, o, ours


def own_mtp(model):
    """transformers' MtpModel from the checkpoint, by transformers' own names and conversions."""
    layer = model.config.num_hidden_layers
    model._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{layer}\."]   # V3's class names layer 61 only
    m = MtpModel.from_pretrained(model).float().eval()
    m.set_attn_implementation("eager"); m.set_experts_implementation("eager")
    return m


def check_mtp(model, x, o, ours):
    m = own_mtp(model)
    with torch.no_grad():
        ref = mtp_logits(m, model, x, o.hidden_states[-1])
    for form in ("expanded", "absorbed"):
        d = distance(ours[form]["mtp_logits"], ref)
        check(f"MTP logits, {form}", d <= LIMIT, f"{d:.2e} of the largest value")
        n = (ours[form]["mtp_logits"].argmax(-1) != ref.argmax(-1)).sum().item()
        check(f"MTP drafts, {form}", n == 0, f"{ref.shape[0] * ref.shape[1] - n} of {ref.shape[0] * ref.shape[1]} equal")
    hit = (ref.argmax(-1)[:, :-1] == o.logits[:, 1:-1].argmax(-1)).float().mean().item()
    print(f"     (the draft is the main model's own choice for {hit:.1%} of these positions)")


def check_generate(path, program, model, tok, prompts, n=32):
    """Greedy text of transformers, with use_mtp and without, and of fathom, in float32."""
    model.generation_config.pad_token_id = tok.pad_token_id
    same = same_mtp = hits = drafted = 0
    for p in prompts:
        ids = torch.tensor([[tok.bos_token_id, *tok(p, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            a = model.generate(ids, max_new_tokens=n, do_sample=False)[0, ids.size(1):].tolist()
            b = model.generate(ids, max_new_tokens=n, do_sample=False, use_mtp=True)[0, ids.size(1):].tolist()
        r = json.loads(fathom(program, "generate", "--model", path, "--prompt", p, "--tokens", n, "--precision", "f32",
                              "--temperature", 0, "--draft", "mtp", "--json"))
        stop = lambda t: list(itertools.takewhile(lambda i: i != tok.eos_token_id, t))
        same += stop(a) == stop(r["ids"])
        same_mtp += stop(a) == stop(b)
        hits += r["accepted"]; drafted += r["drafted"]
    check("greedy continuations equal transformers'", same == len(prompts), f"{same} of {len(prompts)}")
    check("transformers drafting with our module writes the same", same_mtp == len(prompts),
          f"{same_mtp} of {len(prompts)}; ours accepted {hits} of {drafted} drafts")


def conversations():
    """User and assistant turns, a system message or not, thinking on and off, a prompt at the end or not."""
    u, a, s = (lambda r: lambda c: dict(role=r, content=c))("user"), lambda c: dict(role="assistant", content=c), \
        dict(role="system", content="You tell short stories.\n")
    talks = [[u("Tell me  a story.")], [u("Hi"), a("Hello!"), u("A story,\nplease? \u00e9\u4e2d\U0001f600")],
             [s, u("Who are you?")], [s, s, u("x"), a("<think>why</think> y"), u("z"), a("w")], [u("a"), u("b")]]
    for t, think in itertools.product(talks, (False, True)):
        yield dict(messages=t, thinking=think, add_generation_prompt=t[-1]["role"] == "user")


def check_chat(path, program, tok):
    g = GenerationConfig.from_pretrained(path)
    cfg = json.load(open(os.path.join(path, "config.json")))
    check("generation_config.json loads", (g.bos_token_id, g.eos_token_id) == (cfg["bos_token_id"], cfg["eos_token_id"]),
          f"bos {g.bos_token_id}, eos {g.eos_token_id}")
    check("the tokenizer's marks are config.json's",
          (tok.bos_token_id, tok.eos_token_id, tok.pad_token_id) ==
          (cfg["bos_token_id"], cfg["eos_token_id"], cfg["pad_token_id"]))
    asked = list(conversations())
    got = json_lines(fathom(program, "chat-format", "--model", path, "--jsonl", text="".join(json.dumps(r) + "\n" for r in asked)))
    text = ids = 0
    for r, o in zip(asked, got):
        args = dict(add_generation_prompt=r["add_generation_prompt"], thinking=r["thinking"])
        text += tok.apply_chat_template(r["messages"], tokenize=False, **args) == o["text"]
        e = tok.apply_chat_template(r["messages"], tokenize=True, return_dict=False, **args)
        ids += list(e) == o["ids"]
    check("apply_chat_template equals fathom chat-format", len(got) == len(asked) == text, f"{text} of {len(asked)} texts")
    check("and its ids", ids == len(asked), f"{ids} of {len(asked)}")


def check_without(path, program, model, x, o, tmp):
    d = os.path.join(tmp, "plain")
    fathom(program, "convert", "--model", path, "--out", d, "--no-mtp")
    plain, info = open_model(d)
    check("convert --no-mtp leaves nothing unused, missing or mismatched", not info, str(info)[:300] if info else "")
    with torch.no_grad():
        check("and the same logits", torch.equal(plain(input_ids=x).logits, o.logits))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("checkpoint"); ap.add_argument("fathom")
    ap.add_argument("--text", default=os.path.join(os.path.dirname(__file__), "..", "corpus", "aesop_loc.txt"))
    ap.add_argument("--tokens", type=int, default=400); ap.add_argument("--rows", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model, info = open_model(a.checkpoint)
    check_loading(a.checkpoint, model, info)
    tok = AutoTokenizer.from_pretrained(a.checkpoint)
    text = corpus_text(a.text)
    all_ids = tok(text[:200000], add_special_tokens=False).input_ids
    ids = [[tok.bos_token_id, *all_ids[i * a.tokens:(i + 1) * a.tokens - 1]] for i in range(a.rows)]
    tmp = tempfile.mkdtemp()
    try:
        x, o, ours = check_logits(a.checkpoint, a.fathom, model, ids, tmp)
        check_mtp(model, x, o, ours)
        check_without(a.checkpoint, a.fathom, model, x, o, tmp)
        check_chat(a.checkpoint, a.fathom, tok)
        opening = [" ".join(p.split()[:9]) for p in re.split(r"\n\s*\n", text) if len(p.split()) > 20][:6]
        check_generate(a.checkpoint, a.fathom, model, tok, opening)
    finally:
        shutil.rmtree(tmp)
    finish()


if __name__ == "__main__":
    main()
