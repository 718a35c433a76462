"""Makes chat_smollm.json: conversations as Jinja2 renders them with the model's own template.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install jinja2==3.1.6 numpy
    /tmp/venv/bin/python tests/golden/make_chat_golden.py ~/.cache/spherical/models/SmolLM2-135M-Instruct.Q4_1.gguf
"""
import json
import os
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

from gguf import Gguf

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


def main():
    """Writes chat_smollm.json beside this script."""
    template = Gguf(sys.argv[1]).metadata["tokenizer.chat_template"]
    render = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
    cases = []
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        cases.append({"messages": messages, "text": render(messages=messages, add_generation_prompt=True)})
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat_smollm.json"), "w", encoding="ascii") as out:
        lines = ",\n".join("  " + json.dumps(case) for case in cases)
        out.write('{"comment": "made by make_chat_golden.py",\n "cases": [\n%s\n]}\n' % lines)


if __name__ == "__main__":
    main()
