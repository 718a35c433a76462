"""Makes tokenizer_smollm.json and pre_tokenizers.json: what an independent implementation says about tricky texts.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3 numpy
    /tmp/venv/bin/python tests/golden/make_tokenizer_golden.py ~/.cache/spherical/models/SmolLM2-135M-Instruct.Q4_1.gguf

The vocabulary and the merges come from the GGUF file; splitting, merging and special tokens are Hugging Face `tokenizers`. The ids
were also compared with llama.cpp's llama-tokenize (--no-escape), here and on 1.8 MB of English, code and manuals: no difference.
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from gguf import Gguf

FOLDER = os.path.dirname(os.path.abspath(__file__))

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", "\r\n", " \n ", "\n  \n\n   ", "   leading", "trailing   ", "a", "Hello", "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "I'm you're he's we'd they'll I've can't DON'T I'M YOU'RE it'S 'tis rock'n'roll ''s", "0", "7", "42", "1234567890", "3.14159",
    "1,000,000", "2024-01-31T23:59:59Z", "v1.2.3-rc4", "0x1F600", "12 34  56   78", "\u0661\u0662\u0663 \u00b2\u00bd \u2167", "foo  5",
    "5  foo", "x1y22z333", " 1 2", "price: $9.99 (10% off)", "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m stra\u00dfe", "e\u0301 vs \u00e9",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5", "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u30ab\u30bf\u30ab\u30ca", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \u2764\ufe0f",
    "a\U0001f600b", "\u00a0nbsp\u00a0\u00a0x", "\u2003em\u2003\u2003space", "\u3000\u3000\u5168\u89d2", "a\u0085b", "a\u200bb\ufeffc",
    "a\u180eb", "!\u180e!\u0085!\u200b!", "\u2028line\u2029para", "zero\u0000byte", "bell\u0007esc\u001b[0m",
    "math \u2200x\u2208\u211d: \u221a2 \u2260 \u03c0\u00b2", "def f(x):\n    if x > 0:\n        return x ** 2\n    return -x\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n", "<div class=\"a b\">&nbsp;</div>",
    "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\\n\"}", "SELECT * FROM t WHERE a='b' AND c<>1;",
    "https://example.com/path?q=1&r=%20#frag", "user@example.com", "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "...!!!???---===***", "\u2018quoted\u2019 \u201cdouble\u201d \u2013 \u2014 \u2026", "A" * 100, "ab" * 60, " " * 50 + "x", "\n" * 20,
    "!" * 40, "9" * 30, "supercalifragilisticexpialidocious antidisestablishmentarianism", "word " * 30,
    "mixed \u4e2d\u6587 and English \u6df7\u5408 text123\u6570\u5b57456", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|>", "<|im_start|", "a<|im_end|>b <|im_end|> c", "<repo_name>x<file_sep>",
    "<|im_start|><|im_start|>system", "I\u017f 'S '\u017f k\u212a", "\u01c5\u02b0\u16ee\u3007\u2460", "x\u0301\u0302y",
]

# As the models' own tokenizer.json files have them.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (r"[^\r\n\p{L}\p{N}]?%s*%s+|[^\r\n\p{L}\p{N}]?%s+%s*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
           % (_UPPER, _LOWER, _UPPER, _LOWER))


def _split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


PRE_TOKENIZERS = {
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _split(_GPT2)]),
    "llama-bpe": _split(_CL100K % "{1,3}"),
    "qwen2": _split(_CL100K % ""),
    "gpt-2": _split(_GPT2),
    "tekken": _split(_TEKKEN),
}


def make_tokenizer(metadata, special):
    """A tokenizer with the file's vocabulary; with or without its control tokens recognised in text."""
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(line.split(" ")) for line in metadata["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    if special:
        types = metadata["tokenizer.ggml.token_type"]
        made.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    return made


def write(name, comment, cases):
    """One case a line, so that a difference can be read."""
    with open(os.path.join(FOLDER, name), "w", encoding="ascii") as out:
        lines = ",\n".join("  " + json.dumps(case) for case in cases)
        out.write('{"comment": %s,\n "cases": [\n%s\n]}\n' % (json.dumps(comment), lines))


def main():
    """Writes both files beside this one."""
    metadata = Gguf(sys.argv[1]).metadata
    plain, special = make_tokenizer(metadata, False), make_tokenizer(metadata, True)
    write("tokenizer_smollm.json", "made by make_tokenizer_golden.py: ids as text, ids with special tokens recognised",
          [{"text": t, "ids": plain.encode(t, add_special_tokens=False).ids,
            "ids_special": special.encode(t, add_special_tokens=False).ids} for t in TEXTS])
    write("pre_tokenizers.json", "made by make_tokenizer_golden.py: words per pre-tokenizer",
          [{"text": t, "words": {n: [w for w, _ in p.pre_tokenize_str(t)] for n, p in PRE_TOKENIZERS.items()}} for t in TEXTS])


if __name__ == "__main__":
    main()
