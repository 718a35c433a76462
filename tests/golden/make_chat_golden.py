"""Makes chat_smollm.json and chat_forms.json: conversations as Jinja2 renders them.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install jinja2==3.1.6 numpy
    /tmp/venv/bin/python tests/golden/make_chat_golden.py ~/.cache/spherical/models/SmolLM2-135M-Instruct.Q4_1.gguf [FOLDER]

The first is made with the model's own template. The second with templates of ours, chat_forms/*.jinja: what models of a family write,
without their tools. FOLDER holds the models' own templates under the same names: both must render every conversation alike.
"""
import json
import os
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

from gguf import Gguf

FOLDER = os.path.dirname(os.path.abspath(__file__))
CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "You speak like a pirate."), ("user", "Hello")],
    [("system", ""), ("user", "Hello")],
    [("user", "2+2?"), ("assistant", "4"), ("user", "And 3+3?")],
    [("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
    [("user", "")],
    [("user", "  spaces kept  \n\nand lines\n")],
    [("user", "{{ 7 * 7 }} {% raw %} 'quotes' \"and\" \\n <b>&amp;</b>")],
    [("user", "\u00e9\u4e2d\u6587\U0001f600 \u00a0")],
    [("assistant", "I begin.")],
    [("user", "a"), ("system", "late"), ("user", "b")],
    [("system", "alone")],
]


# Where white space is trimmed, and thoughts are left out.
MORE_CONVERSATIONS = [
    [("system", "  Be kind. \n"), ("user", "\t a \u00a0\u2003b\u3000\n\x1c"), ("assistant", " \n b\u0085 "), ("user", " c ")],
    [("user", "\ufeff \u200b")], [("user", " \n ")],
    [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c")],
    [("user", "a"), ("assistant", "<think>\n\n</think>\n\n\nb")],
    [("user", "a"), ("assistant", "x<think>h<think>\n\nm\n\n</think>o</think>\nb"), ("assistant", "\n\nplain"), ("system", "s")],
    [("user", "a"), ("assistant", "\n\nplain"), ("assistant", "x</think>")],
]
FORMS = {  # (begin, end of sequence) of the models
    "gemma2": ("<bos>", "<eos>"), "gemma3": ("<bos>", "<eos>"), "llama2": ("<s>", "</s>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "llama31": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral_v01": ("<s>", "</s>"), "mistral_v02": ("<s>", "</s>"), "mistral_v03": ("<s>", "</s>"), "nemo": ("<s>", "</s>"),
    "qwen25": ("", "<|im_end|>"), "qwen3": ("", "<|im_end|>"),
}
ALTERNATING = ("gemma2", "gemma3", "llama2", "mistral_v01", "mistral_v02", "mistral_v03", "nemo")


class Refused(Exception):
    """What a template raises."""


def renderer(source, bos, eos):
    """A function of a conversation: its text, or None where the template refuses it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def refuse(message):
        raise Refused(message)

    environment.globals["raise_exception"] = refuse
    template = environment.from_string(source)

    def render(conversation):
        messages = [{"role": role, "content": content} for role, content in conversation]
        try:
            return template.render(messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos)
        except Refused:
            return None

    return render


def expected(name, render, conversation):
    """Without what we refuse beyond the template: a system message alone, an answer to an answer, a late system message."""
    roles = [role for role, _ in conversation]
    if name in ALTERNATING:
        if "system" in roles[1:] or roles == ["system"]:
            return None
        if "gemma" not in name and roles[-1] == "assistant":
            return None
    return render(conversation)


def write_forms(real):
    """Writes chat_forms.json; where `real` is a folder, compares with its templates."""
    forms = {}
    for name, (bos, eos) in FORMS.items():
        with open(os.path.join(FOLDER, "chat_forms", name + ".jinja"), encoding="utf-8") as ours:
            source = ours.read()
        render, cases = renderer(source, bos, eos), []
        for conversation in CONVERSATIONS + MORE_CONVERSATIONS:
            text = expected(name, render, conversation)
            cases.append({"messages": [{"role": role, "content": content} for role, content in conversation], "text": text})
        forms[name] = {"source": source, "bos": bos, "eos": eos, "cases": cases}
        if real:
            with open(os.path.join(real, name + ".jinja"), encoding="utf-8") as theirs:
                other = renderer(theirs.read(), bos, eos)
            for conversation, case in zip(CONVERSATIONS + MORE_CONVERSATIONS, cases):
                assert expected(name, other, conversation) == case["text"], (name, conversation)
    with open(os.path.join(FOLDER, "chat_forms.json"), "w", encoding="ascii") as out:
        lines = ",\n".join('"%s": {"source": %s, "bos": %s, "eos": %s, "cases": [\n%s]}' %
                           (name, *(json.dumps(form[k]) for k in ("source", "bos", "eos")),
                            ",\n".join("  " + json.dumps(case) for case in form["cases"])) for name, form in forms.items())
        out.write('{"comment": "made by make_chat_golden.py",\n"forms": {\n%s\n}}\n' % lines)


def main():
    """Writes both files beside this script."""
    template = Gguf(sys.argv[1]).metadata["tokenizer.chat_template"]
    render = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
    cases = []
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        cases.append({"messages": messages, "text": render(messages=messages, add_generation_prompt=True)})
    with open(os.path.join(FOLDER, "chat_smollm.json"), "w", encoding="ascii") as out:
        lines = ",\n".join("  " + json.dumps(case) for case in cases)
        out.write('{"comment": "made by make_chat_golden.py",\n "cases": [\n%s\n]}\n' % lines)
    write_forms(sys.argv[2] if len(sys.argv) > 2 else None)


if __name__ == "__main__":
    main()
