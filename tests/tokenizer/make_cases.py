#!/usr/bin/env python3
"""Makes cases.jsonl: 10,000 seeded strings and what Hugging Face's tokenizers make of them.

usage: make_cases.py [--models FOLDER] [--seed N] [--count N] [--out FILE]

FOLDER holds the two .gguf files of the tests. Needs transformers, tokenizers and gguf from PyPI
(last made with transformers 5.23.0, tokenizers 0.23.3). A line is a JSON array
    [text, ids of SmolLM2, ids of Gemma 3, decoded by SmolLM2, decoded by Gemma 3]
where ids are a hash (FNV-1a, 64 bit, of the ids as little-endian 32-bit integers, special tokens
added as the tokenizer does by default) and "decoded" is 1 where decoding the ids without special
tokens gives the text again, else the same hash of the UTF-8 bytes of what it gives.
"""
import argparse
import json
import os
import random
import sys
import types
from pathlib import Path

SMOL = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"

SCRIPTS = [  # ranges of code points
    (0x41, 0x7A), (0xC0, 0x17F), (0x180, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x58F),
    (0x5D0, 0x5EA), (0x620, 0x6FF), (0x904, 0x97F), (0x980, 0x9FF), (0xA00, 0xA7F), (0xB80, 0xBFF),
    (0xC00, 0xC7F), (0xD00, 0xD7F), (0xE01, 0xE5B), (0xE80, 0xEFF), (0xF00, 0xFDA), (0x1000, 0x109F),
    (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x139F), (0x13A0, 0x13FF), (0x1680, 0x169C),
    (0x1780, 0x17FF), (0x1800, 0x18AA), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF), (0x3040, 0x30FF),
    (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF01, 0xFFEE), (0x10330, 0x1034A), (0x12000, 0x120FF),
    (0x1D400, 0x1D7FF), (0x20000, 0x2A6DF), (0x105C0, 0x105F3), (0x11F00, 0x11F59), (0x16D40, 0x16D79)]
WORDS = (
    "the of and to in is that for it was on are with as his they at be this from have or by one had "
    "not but what all were when we there can an your which their said if do will each about how up "
    "out them then she many some so these would other into has more her two like him see time could "
    "no make than first been its who now people my made over did down only way find use may water "
    "long little very after words called just where most know ladder tokenizer distributed inference "
    "Paris London transformer attention I'm don't we'll they've she'd it's WE'RE y'all rock'n'roll "
    "naïve café Straße Ελλάδα Москва 東京 서울 مرحبا שלום नमस्ते สวัสดี").split()
CODE = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) {", "#include <vector>\n", "a[i]->b::c();",
        "SELECT * FROM t WHERE id='7';", "{\"key\": [1, 2.5e-3, null]}", "<div class=\"a\">x</div>", "\\frac{1}{2}",
        "x = x**2 // 3 % 4", "https://example.org/a?b=c&d=%20", "if [ -z \"$A\" ]; then", "\tswitch (c) {\n\t\tcase 'a':",
        "user@example.com", "C:\\Users\\x", "0xDEADBEEF", "1_000_000", "-->", "===", "!!??", "...", "«»„“", "—–-"]
EMOJI = ["🙂", "👩‍👩‍👧‍👦", "🇫🇷", "👍🏽", "1️⃣", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "☺", "🫠", "🪿", "👨🏿‍🚀", "™", "©", "♻️"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u0085",
          "\u180e", "\u202f", "\x0b", "\x0c", "\x1c", "\x1f", "\ufeff", " \n", "\n ", "\t "]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<bos>", "<eos>", "<pad>", "<unk>",
            "<mask>", "<start_of_turn>", "<end_of_turn>", "<unused0>", "<unused99>", "[multimodal]", "<table>", "</table>",
            "<h1>", "<b>", "</b>", "<0x0A>", "<0xE2>", "<|im_start", "im_end|>", "<<|im_end|>>", "<|im_start|>user\n", "<bo",
            "s>", "<start_of_turn>user\n", "<end_of_turn>\n", "▁", "▁▁", "Ġ", "Ċ", "<s>", "</s>", "<unused62", "<code>"]
COMBINING = ["\u0301", "\u0308", "\u0323", "\u20dd", "\u0e31", "\u093f", "\u064b", "\u200d", "\ufe0f"]


def one_of_script(r, n):
    low, high = r.choice(SCRIPTS)
    return "".join(chr(r.randint(low, high)) for _ in range(n))


def piece(r):
    kind = r.randrange(16)
    if kind < 4:
        words = [r.choice(WORDS) for _ in range(r.randint(1, 6))]
        words = [w.upper() if r.random() < 0.05 else w.title() if r.random() < 0.1 else w for w in words]
        return " ".join(words) + r.choice(["", ".", ",", "!", "?", ":", ";", "'s", "’s", "'S", "'LL", "\""])
    if kind == 4:
        return " ".join(one_of_script(r, r.randint(1, 8)) for _ in range(r.randint(1, 3)))
    if kind == 5:
        return r.choice(CODE)
    if kind == 6:
        return "".join(r.choice(EMOJI) for _ in range(r.randint(1, 4)))
    if kind == 7:
        return "".join(r.choice(SPACES) for _ in range(r.randint(1, 6)))
    if kind == 8:
        return r.choice(SPECIALS)
    if kind == 9:
        return r.choice([str(r.randrange(10 ** r.randint(1, 12))), "%.3f" % r.uniform(-1e4, 1e4), "٣٤٥", "१२३", "½²³", "Ⅷ",
                         "%d/%d/%d" % (r.randint(1, 31), r.randint(1, 12), r.randint(1900, 2100)), "  0. ", "1  2   3"])
    if kind == 10:
        return "".join(chr(r.randrange(0x20)) for _ in range(r.randint(1, 4))) + r.choice(["\x7f", "\x80", "\x9f", ""])
    if kind == 11:
        return r.choice(WORDS) + "".join(r.choice(COMBINING) for _ in range(r.randint(1, 3)))
    if kind == 12:
        return "".join(chr(c) for c in (r.randrange(0x110000) for _ in range(r.randint(1, 6))) if not 0xD800 <= c < 0xE000)
    if kind == 13:
        return "".join(chr(r.randint(0x21, 0x7E)) for _ in range(r.randint(1, 12)))
    if kind == 14:
        return "".join(chr(r.randrange(0x3000)) for _ in range(r.randint(1, 5)))
    return r.choice(WORDS) + r.choice(SPACES) + r.choice(WORDS)


def text_of(r, index):
    if index % 100 == 0:  # long runs of one thing
        return r.choice([" ", "\n", "a", "=", "\t", "é", "日", "🙂", " a", "\n ", "ab", "▁", "0", "<"]) * r.randint(20, 150)
    joint = r.choice(["", "", " ", " ", "\n"])
    return joint.join(piece(r) for _ in range(r.randint(1, 3)))


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return "%016x" % h


def load(folder, name):
    """The tokenizer transformers makes of a GGUF file. It imports torch for the tensors of the file, which nobody asks
    for here: an empty module does."""
    if "torch" not in sys.modules:
        import transformers  # noqa: F401  (before the stand-in: it must find that there is no torch)

        class Empty(types.ModuleType):
            def __getattr__(self, attribute):
                if attribute.startswith("__"):
                    raise AttributeError(attribute)
                return type(attribute, (), {})
        sys.modules["torch"] = Empty("torch")
    from transformers import TokenizersBackend
    return TokenizersBackend(name_or_path=str(folder), gguf_file=name)


def main():
    home = Path.home() / ".cache/echelon/models"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=Path(os.environ.get("ECHELON_TEST_MODELS", home)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cases.jsonl"))
    args = parser.parse_args()
    tokenizers = [load(args.models, SMOL), load(args.models, GEMMA)]
    r = random.Random(args.seed)
    with open(args.out, "w", encoding="utf-8") as out:
        for index in range(args.count):
            text = text_of(r, index)
            ids = [t(text)["input_ids"] for t in tokenizers]
            back = [t.backend_tokenizer.decode(i, skip_special_tokens=True) for t, i in zip(tokenizers, ids)]
            row = [text] + [fnv(b"".join(i.to_bytes(4, "little") for i in one)) for one in ids]
            row += [1 if b == text else fnv(b.encode()) for b in back]
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
