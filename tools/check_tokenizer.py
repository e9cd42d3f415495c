#!/usr/bin/env python3
"""Hold fathom's tokenizer against transformers on whole files.

For every document of every file: fathom tokenizer encode gives the ids of transformers.AutoTokenizer on
the same directory, and both decode to the very text, spaces included. A document is the text between lines <|endoftext|>.

Usage: check_tokenizer.py FATHOM TOKENIZER_DIR FILE...      (a .zst file is unpacked by zstd)
       --tokenizers-only: through the Rust library alone, where transformers is not at hand
"""
import argparse, json, os, shutil, subprocess, tempfile
from oracle import check, corpus_text, fathom, finish, json_lines


def documents(path):
    """Texts between the marks; each keeps every character, the newline before the mark aside."""
    text = corpus_text(path)
    parts = [p for p in text.split("<|endoftext|>") if p.strip("\n")]
    return [p.removeprefix("\n").removesuffix("\n") for p in parts], len(text.encode())


def unpacked(path, tmp):
    """A directory with tokenizer.json; tokenizer.json.zst is unpacked beside copies of the rest."""
    if not os.path.exists(os.path.join(path, "tokenizer.json.zst")):
        return path
    d = os.path.join(tmp, "tokenizer")
    os.makedirs(d)
    subprocess.run(["zstd", "-dq", os.path.join(path, "tokenizer.json.zst"), "-o", os.path.join(d, "tokenizer.json")], check=True)
    for f in ("tokenizer_config.json",):
        if os.path.exists(os.path.join(path, f)):
            shutil.copy(os.path.join(path, f), d)
    return d


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("fathom"); ap.add_argument("tokenizer"); ap.add_argument("file", nargs="+")
    ap.add_argument("--tokenizers-only", action="store_true")
    a = ap.parse_args()
    tmp = tempfile.mkdtemp()
    d = unpacked(a.tokenizer, tmp)
    if a.tokenizers_only:
        from tokenizers import Tokenizer
        t = Tokenizer.from_file(os.path.join(d, "tokenizer.json"))
        encode = lambda texts: [e.ids for e in t.encode_batch(texts, add_special_tokens=False)]
        decode = lambda ids: t.decode(ids, skip_special_tokens=False)
        name = "tokenizers"
    else:
        from transformers import AutoTokenizer
        t = AutoTokenizer.from_pretrained(d)
        encode = lambda texts: t(texts, add_special_tokens=False).input_ids
        decode = t.decode
        name = type(t).__name__
    for path in a.file:
        docs, size = documents(path)
        lines = "".join(json.dumps(dict(text=x), ensure_ascii=False) + "\n" for x in docs)
        ours = json_lines(fathom(a.fathom, "tokenizer", "encode", "--model", d, "--jsonl", text=lines))
        theirs = encode(docs)
        what = f"{os.path.basename(path)}, {len(docs)} documents, {size} bytes, {sum(map(len, theirs))} tokens"
        equal = sum(x == y for x, y in zip(ours, theirs))
        check(f"ids equal {name}'s", len(ours) == len(docs) == equal, f"{what}; {equal} equal")
        if equal < len(docs):
            i = next((i for i, (x, y) in enumerate(zip(ours, theirs)) if x != y), len(ours))
            print(f"     first in document {i}: {docs[i][:80]!r}" if i < len(docs) else f"     {len(ours)} rows")
        back = sum(decode(y) == x for x, y in zip(docs, theirs))
        check(f"{name} decodes to the text", back == len(docs), f"{back} of {len(docs)}")
        text = json_lines(fathom(a.fathom, "tokenizer", "decode", "--model", d, "--jsonl",
                                 text="".join(json.dumps(x) + "\n" for x in ours)))
        back = sum(x["text"] == y for x, y in zip(text, docs))
        check("fathom decodes to the text", back == len(docs), f"{back} of {len(docs)}")
    shutil.rmtree(tmp)
    finish()


if __name__ == "__main__":
    main()
