"""Makes tiny_tokenizers.json: small vocabularies in the shapes of real families, and what reference libraries say about tricky texts.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf numpy
    /tmp/venv/bin/python tests/golden/make_tiny_tokenizers.py

Vocabularies are trained on this repository's manuals. `tokenizer` is a tokenizer.json as that family's has it; `ids` come from Hugging Face
`tokenizers` loading it, and of SentencePiece itself where it differs. `sentencepiece` holds scores and types of the same pieces.
"""
import io
import json
import os

import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from make_sentencepiece_golden import MARK, MORE
from make_tokenizer_golden import FOLDER, TEXTS, _CL100K, _TEKKEN

MANUALS = ("README.md", "engine/README.md", "kernels/README.md", "server/README.md", "deploy/README.md")
SPECIAL = ["<s>a</s>", " <s> a", "a <s>b</s> c", "<s>", "<s><s>[INST] hi [/INST] yes</s>", "<b> a<b>  <b>", "[INST]"]
CASES = [t for t in TEXTS + MORE + SPECIAL if len(t) < 100]


def corpus():
    """Lines of the manuals, and the texts themselves, so that their characters have pieces."""
    lines = []
    for name in MANUALS:
        with open(os.path.join(FOLDER, "..", "..", name), encoding="utf-8") as manual:
            lines += manual.read().split("\n")
    return lines + [t for t in TEXTS[:60] if "\0" not in t]


def trained_sentencepiece(size, user_defined, prefix):
    """(pieces, scores, types, processor) of a BPE model with byte fallback."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, model_type="bpe", vocab_size=size, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", add_dummy_prefix=prefix, remove_extra_whitespaces=False,
        user_defined_symbols=user_defined, allow_whitespace_only_pieces=True, split_digits=True, num_threads=1, minloglevel=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    count = processor.vocab_size()
    pieces = [processor.id_to_piece(i) for i in range(count)]
    kinds = [2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i)
             else 4 if pieces[i] in user_defined else 1 for i in range(count)]
    return pieces, [processor.get_score(i) for i in range(count)], kinds, processor


def merges_of(pieces, scores, kinds):
    """Every way to join two pieces, the highest score first: as Hugging Face's converter finds them."""
    known = {p: i for i, p in enumerate(pieces) if kinds[i] in (1, 4)}
    found = []
    for piece, index in known.items():
        splits = [(piece[:c], piece[c:]) for c in range(1, len(piece)) if piece[:c] in known and piece[c:] in known]
        found += [(-scores[index], split) for split in sorted(splits, key=lambda s: (known[s[0]], known[s[1]]))]
    return [split for _, split in sorted(found, key=lambda f: f[0])]


def added(pieces, kinds):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": i, "content": p, **flags, "special": k != 4} for i, (p, k) in enumerate(zip(pieces, kinds)) if k in (2, 3, 4)]


def with_bos(name, index):
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [index], "tokens": [name]}}}


def tokenizer_json(model, added_tokens, normalizer, pre_tokenizer, decoder, post_processor):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}


_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
_BACK = [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
_STRIP = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]


def sentencepiece_model(pieces, scores, kinds, pairs):
    merges = merges_of(pieces, scores, kinds)
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": {p: i for i, p in enumerate(pieces)},
            "merges": [list(m) if pairs else " ".join(m) for m in merges]}


def llama2():
    pieces, scores, kinds, processor = trained_sentencepiece(560, [], True)
    made = tokenizer_json(sentencepiece_model(pieces, scores, kinds, False), added(pieces, kinds),
                          {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, _REPLACE]}, None,
                          {"type": "Sequence", "decoders": _BACK + _STRIP}, with_bos("<s>", 1))
    return made, {"scores": scores, "types": kinds, "add_space_prefix": True}, processor


def mistral():
    made, _, _ = llama2()
    made["normalizer"] = None
    made["pre_tokenizer"] = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": False}
    made["model"]["merges"] = [m.split(" ") for m in made["model"]["merges"]]
    last = len(made["model"]["vocab"])
    made["added_tokens"] += added(["[INST]", "[/INST]"], [3, 3])
    for i in (-1, -2):
        made["added_tokens"][i]["id"] += last
    return made, None, None


def gemma():
    runs = [MARK * n for n in range(2, 6)]
    pieces, scores, kinds, processor = trained_sentencepiece(600, ["<b>", "\n", "\n\n", "\n\n\n"] + runs, False)
    # Runs of marks may also be merged: what the reference finds in one step.
    scores = [1000.0 - len(p) if p in runs else s for p, s in zip(pieces, scores)]
    made = tokenizer_json(sentencepiece_model(pieces, scores, kinds, True), added(pieces, kinds), _REPLACE,
                          {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
                          {"type": "Sequence", "decoders": _BACK}, with_bos("<s>", 1))
    return made, {"scores": scores, "types": kinds, "add_space_prefix": False}, processor


def byte_level(cut, words, whole_words, names):
    """A byte-level vocabulary as the trainer makes it, its special tokens after the pieces."""
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    training = Tokenizer(models.BPE())
    training.pre_tokenizer = cut
    training.train_from_iterator(corpus(), trainer)
    model = json.loads(training.to_str())["model"]
    model["ignore_merges"] = whole_words
    if whole_words:  # a word that no merge makes
        model["vocab"]["\u0120\u0120\u0120x"] = len(model["vocab"])
    model["vocab"] = dict(sorted(model["vocab"].items(), key=lambda v: v[1]))
    count = len(model["vocab"])
    tokens = added([""] * count + names, [1] * count + [4 if n == "<b>" else 3 for n in names])
    return tokenizer_json(model, tokens, None, words, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                                       "use_regex": True}, None)


def _split(pattern):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}


def byte_levels():
    """Llama 3, Qwen 2, Mistral Nemo and SmolLM2 by their own rules."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    names = ["<s>", "</s>", "<b>"]
    llama3 = byte_level(gpt2, _split(_CL100K % "{1,3}"), True, names)
    at = llama3["added_tokens"][0]["id"]
    llama3["post_processor"] = {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, with_bos("<s>", at)]}
    qwen2 = byte_level(gpt2, _split(_CL100K % ""), False, names)
    qwen2["normalizer"] = {"type": "NFC"}
    nemo = byte_level(gpt2, _split(_TEKKEN), True, names)
    nemo["post_processor"] = with_bos("<s>", at)
    smollm = byte_level(gpt2, {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}, False, names)
    return {"llama3": llama3, "qwen2": qwen2, "nemo": nemo, "smollm": smollm}


def case(text, loaded, processor):
    """Left out: `special` where the ids are the same, `decoded` where it is the text."""
    plain, special, start = (loaded[k].encode(text, add_special_tokens=k == "start").ids for k in ("plain", "special", "start"))
    assert start[len(start) - len(special):] == special
    made = {"text": text, "ids": plain}
    if special != plain:
        made["special"] = special
    decoded = loaded["special"].decode(plain, skip_special_tokens=True)
    if decoded != text:
        made["decoded"] = decoded
    if processor and processor.encode(text) != plain:
        made["sentencepiece"] = processor.encode(text)
    return made


def main():
    """Writes tiny_tokenizers.json beside this script."""
    families = {"llama2": llama2(), "mistral": mistral(), "gemma": gemma()}
    families.update({name: (made, None, None) for name, made in byte_levels().items()})
    with open(os.path.join(FOLDER, "tiny_tokenizers.json"), "w", encoding="ascii") as out:
        out.write('{"comment": "made by make_tiny_tokenizers.py"')
        for name, (made, sentencepiece_parts, processor) in families.items():
            loaded = {k: Tokenizer.from_str(json.dumps(made)) for k in ("plain", "special", "start")}
            loaded["plain"].encode_special_tokens = True
            out.write(',\n"%s": {"tokenizer": %s,\n "sentencepiece": %s,\n "cases": [\n' %
                      (name, json.dumps(made, separators=(",", ":")), json.dumps(sentencepiece_parts, separators=(",", ":"))))
            out.write(",\n".join("  " + json.dumps(case(t, loaded, processor), separators=(",", ":")) for t in CASES) + "\n ]}")
        out.write("}\n")


if __name__ == "__main__":
    main()
