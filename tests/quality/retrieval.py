"""Long-range retrieval: numbers hidden in a long text at several depths, asked for at its end. Everything is made from a seed.

A haystack is filler with lines such as "Remember this: the magic number of the lantern is 4821." spread evenly over it. It is prefilled
exactly and kept by a mode; then every line is asked for, each question by itself after the whole haystack. The score is the
log-probability of the right number, and whether greedy decoding would have said it.
"""
import random

WORDS = """anchor apple arrow basket beacon bell blanket bottle bridge bucket button candle carpet castle chimney clock compass copper
cotton crown curtain diamond dragon drum eagle engine feather fiddle flute forest fountain garden giraffe glacier glove hammer harbour
hazel helmet honey island jacket kettle ladder lantern lemon leopard magnet maple marble meadow mirror needle orchard oyster paddle
pepper piano pillow pirate planet pocket prairie pumpkin rabbit ribbon river rocket saddle sailor scarf shovel silver spider squirrel
statue temple thunder tiger timber tower trumpet tunnel turtle valley velvet violin walnut whistle willow window winter""".split()

PEOPLE = ["The teacher", "A neighbour", "The baker", "My cousin", "An old farmer", "The captain", "A young doctor", "The mayor",
          "Her sister", "The gardener", "A traveller", "The librarian", "His uncle", "The painter", "A student"]
DEEDS = ["walked along", "talked about", "read a story about", "painted a picture of", "asked about", "remembered", "waited near",
         "wrote a letter about", "looked for", "dreamed of", "took a photograph of", "sang a song about", "drove past", "cleaned"]
THINGS = ["the long wooden fence", "the market in the old town", "a road through the hills", "the quiet lake", "the school by the church",
          "the first snow of the year", "a train that was late", "the small shop at the corner", "the garden behind the house",
          "the boats in the evening", "a summer by the sea", "the kitchen of the inn", "the mill at the brook", "the bench in the park"]
TIMES = ["in the morning", "after the rain", "before dinner", "on Sunday", "for a whole afternoon", "without a word", "once more",
         "with a smile", "at the end of the week", "as everybody expected", "late in the evening", "when the bells rang"]

# Of nine phrasings tried with SmolLM2-135M and f16 keys and values, the best after 6,144 tokens: 9 of the 12 in one haystack, the others 2
# to 6. Nearer it is among the best: 30 of 36 after 512 tokens, 29 after 2,048. Chosen so, it promises less elsewhere.
STATEMENT = "Remember this: the magic number of the {word} is {number}."
QUESTION = "\n\nAs said above, the magic number of the {word} is"
ANSWER = " {number}"


class Haystack:
    """One text and what is hidden in it."""

    def __init__(self, seed, needles):
        choice = random.Random(seed)
        self._seed = seed
        self.hidden = [(word, str(choice.randrange(1000, 10000))) for word in choice.sample(WORDS, needles)]

    def depth(self, index):
        """Where a line is, from 0 at the front of the text to 1 at its end."""
        return (index + 0.5) / len(self.hidden)

    def text(self, sentences):
        """The text with that many sentences of filler. The same filler for any number, as far as it goes."""
        filler = random.Random(f"filler {self._seed}")
        lines = [self._sentence(filler) for _ in range(sentences)]
        for index, (word, number) in reversed(list(enumerate(self.hidden))):
            lines.insert(round(self.depth(index) * sentences), STATEMENT.format(word=word, number=number))
        return " ".join(lines)

    def questions(self):
        """As the worker takes them, in order of depth."""
        return [{"question": QUESTION.format(word=word), "answer": ANSWER.format(number=number)} for word, number in self.hidden]

    @staticmethod
    def _sentence(filler):
        return f"{filler.choice(PEOPLE)} {filler.choice(DEEDS)} {filler.choice(THINGS)} {filler.choice(TIMES)}."


def sentences_for(tokens, count_tokens):
    """How many sentences make a text of at most `tokens` tokens, and nearly as many. count_tokens(sentences) asks the tokenizer."""
    some = 100
    sentences = max(1, int(some * tokens / count_tokens(some)))
    while sentences > 1 and count_tokens(sentences) > tokens:
        sentences -= max(1, sentences // 100)
    return sentences


def summarise(answers, depths):
    """Of {mode: [answers of a haystack...]}: numbers found and mean change of log-probability from exact, in that many steps of depth."""
    exact = answers["exact"]
    modes = []
    for mode, of_mode in answers.items():
        cells = [[] for _ in range(depths)]
        for told, true in zip(of_mode, exact):
            for index, (answer, right) in enumerate(zip(told, true)):
                cells[index * depths // len(told)].append((answer["greedy"], answer["logprob"] - right["logprob"], answer["logprob"]))
        modes.append({"mode": mode, "depths": [_cell(cell) for cell in cells], "all": _cell(sum(cells, []))})
    return {"depths": [(i + 0.5) / depths for i in range(depths)], "modes": modes}


def _cell(answers):
    return {"asked": len(answers), "found": sum(found for found, _, _ in answers),
            "change": sum(change for _, change, _ in answers) / len(answers),
            "logprob": sum(logprob for _, _, logprob in answers) / len(answers)}
