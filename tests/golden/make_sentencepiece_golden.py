"""Makes tokenizer_gemma.json: what SentencePiece itself says about tricky texts, with Gemma 3's vocabulary.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install sentencepiece==0.2.3 protobuf numpy
    /tmp/venv/bin/python tests/golden/make_sentencepiece_golden.py ~/.cache/spherical/models/gemma-3-270m-q4_k_m.gguf

Pieces, scores and types come from the GGUF file; they are put back into a SentencePiece model, and its library encodes. Names of control
tokens in a text are no business of SentencePiece: texts are cut at them here, leftmost first, the longest of those that begin there.
"""
import re
import sys

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from gguf import Gguf
from make_tokenizer_golden import TEXTS, write

MARK = "\u2581"
MORE = [
    " a  b   c    d", "x" + " " * 31 + "y", " " * 32, " " * 70 + "z", "\n" * 31 + "a" + "\n" * 40, " \n \n  \n\n  ", "\t\t\tx\t \t",
    "<table><tr><td>1</td></tr></table>", "a<table>b </h1> <h1>", "[multimodal]", "<unused7> and <mask>",
    "<bos>twice<bos>", "<start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n", "<start_of_turn", "<0x41> <0x0A>",
    MARK, "a" + MARK + "b", MARK * 3 + " " + MARK, "\x00", "\x00\x01\x02\x7f", "\u00e9" * 40, "e\u0301" * 20,
    "\U0001f9ff\U0001fae8\U0010ffff\ue000", "\u0e01\u0e33\u0e49\u0e36", "\u1100\u1161\u11a8 \uac01", "\ufb01 \u2126 \u212b \u1e9b\u0323",
    "\u202eabc\u202c", "\u4e2d" * 300, "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 10, "aB" * 500, "inge" * 300,
    "The <b>bold</b> and the   <i>beautiful</i>\r\n\r\n", "don't  can't\twon't", "3.14159265358979 1e-10 0xDEADBEEF",
]


def processor_of(metadata):
    """A SentencePiece model with the file's pieces, scores and types."""
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = 6 in metadata["tokenizer.ggml.token_type"]
    model.trainer_spec.unk_id = metadata["tokenizer.ggml.unknown_token_id"]
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = metadata["tokenizer.ggml.add_space_prefix"]
    model.normalizer_spec.remove_extra_whitespaces = False
    keys = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
    for index, (piece, score, kind) in enumerate(zip(*(metadata[k] for k in keys))):
        # GGUF has user-defined pieces with plain spaces, and calls the unknown token a control token.
        kind = 2 if index == model.trainer_spec.unk_id else kind
        model.pieces.add(piece=piece.replace(" ", MARK) if kind == 4 else piece, score=score, type=kind)
    return SentencePieceProcessor(model_proto=model.SerializeToString())


def main():
    """Writes tokenizer_gemma.json beside this script."""
    metadata = Gguf(sys.argv[1]).metadata
    model = processor_of(metadata)
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    control = {t: i for i, (t, kind) in enumerate(zip(tokens, kinds)) if kind == 3}
    names = re.compile("|".join(re.escape(t) for t in sorted(control, key=len, reverse=True)))

    def special(text):
        ids, done = [], 0
        for match in names.finditer(text):
            ids += model.encode(text[done:match.start()]) + [control[match.group()]]
            done = match.end()
        return ids + model.encode(text[done:])

    write("tokenizer_gemma.json", "made by make_sentencepiece_golden.py: ids as text, ids with special tokens recognised",
          [{"text": t, "ids": model.encode(t), "ids_special": special(t)} for t in TEXTS + MORE])


if __name__ == "__main__":
    main()
