"""The harness's parts that need no model: arguments, means, tables, plots, haystacks, progress."""
import contextlib
import hashlib
import io
import json
import os
import pathlib
import tempfile
import unittest
import xml.etree.ElementTree as ET

import plot
import retrieval
import run
import table

HERE = pathlib.Path(os.path.abspath(__file__)).parent
SVG = "{http://www.w3.org/2000/svg}"


def row(mode, bits, kl):
    windows = [{"text": "a", "start": 0, "kl": kl / 2, "delta_nll": 0.0, "top1": 1.0}, {"text": "a", "start": 9, "kl": 1.5 * kl}]
    return {"mode": mode, "rate_bits": bits, "rate_real_bits": bits + 0.3, "mean_kl": kl, "delta_nll": -0.001, "top1": 0.987,
            "windows": windows}


def result(rows=(), geometry="text", **settings):
    return {"date": "today", "commit": "c0ffee", "cpu": "p", "cores": 2, "command": "run.sh --text a.txt", "model": "SmolLM2-135M-X.gguf",
            "model_sha256": "0" * 64, "rows": list(rows), "retrieval": None,
            "settings": {"prefill": 6144, "score": 1024, "starts": [10000, 40000], "texts": [{"name": "a"}, {"name": "b"}],
                         "activations": "f32", "geometry": geometry} | settings}


class ArgumentsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        for name in ("model.gguf", "text.txt", "other.txt"):
            pathlib.Path(folder.name, name).write_text("x")

    def parse(self, *argv):
        return run.parse_args(["--invoked-in", self.folder, "--model", "model.gguf", *argv])

    def refused(self, *argv):
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as exit_:
            self.parse(*argv)
        self.assertEqual(exit_.exception.code, 2)
        return said.getvalue()

    def test_takes_what_the_issue_says(self):
        args = self.parse("--text", "text.txt", "other.txt", "--start", "10000,40000", "--prefill", "6144", "--score", "1024",
                          "--modes", "exact,uniform:T4", "--calibrate-text", "text.txt", "--json", "out.json")
        self.assertEqual(args.start, [10000, 40000])
        self.assertEqual(args.modes, ["exact", "uniform:T4"])
        self.assertEqual(args.text, [f"{self.folder}/text.txt", f"{self.folder}/other.txt"])
        self.assertEqual(args.json, f"{self.folder}/out.json")

    def test_says_what_is_wrong(self):
        text = ("--text", "text.txt")
        for argv, message in (((), "at least one text"), (("--text", "none.txt"), "none.txt: there is no such file"),
                              (text + ("--prefill", "0"), "0 is too small"), (text + ("--score", "1"), "1 is too small"),
                              (text + ("--start", "-1"), "-1 is too small"), (text + ("--start", "many"), "'many' is not a whole number"),
                              (text + ("--start", ""), "no number"), (text + ("--modes", ","), "no mode"),
                              (text + ("--threads", "0"), "0 is too small"),
                              (text + ("--geometry", "absent.geo"), "absent.geo: there is no such file"),
                              (text + ("--geometry", "plain", "--calibrate-text", "other.txt"), "leave one of them out"),
                              (text + ("--calibrate-text", "gone.txt"), "gone.txt: there is no such file"),
                              (("--text", "text.txt", "./text.txt"), "two texts have the same name"),
                              (text + ("--activations", "f16"), "invalid choice"),
                              (text + ("--json", "none/out.json"), "cannot be written"), (text + ("--svg", "."), "cannot be written")):
            with self.subTest(argv=argv):
                self.assertIn(message, self.refused(*argv))

    def test_a_curve_is_kept_beside_the_model_it_was_measured_on(self):
        model = f"{self.folder}/model.gguf"
        measured = result([row("uniform:T4", 4.6, 0.002)]) | {"model_sha256": hashlib.sha256(b"x").hexdigest()}
        run.keep(model, measured)
        curve = json.loads(pathlib.Path(model + ".quality.json").read_text(encoding="utf-8"))
        self.assertEqual(curve["rows"], [{"mode": "uniform:T4", "rate_bits": 4.6, "rate_real_bits": 4.6 + 0.3, "mean_kl": 0.002,
                                          "top1": 0.987}])
        self.assertEqual((curve["prefill"], curve["commit"]), (6144, "c0ffee"))
        with self.assertRaisesRegex(run.Wrong, "not the model that was measured"):
            run.keep(model, result([row("uniform:T4", 4.6, 0.002)]))

    def test_a_curve_needs_a_model_to_be_kept_beside(self):
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as exit_:
            run.parse_args(["--invoked-in", self.folder, "--from", "text.txt", "--keep"])
        self.assertEqual(exit_.exception.code, 2)
        self.assertIn("--keep: whose curve it is, --model says", said.getvalue())

    def test_help_names_the_modes(self):
        with contextlib.redirect_stdout(io.StringIO()) as said, self.assertRaises(SystemExit) as exit_:
            run.parse_args(["--help"])
        self.assertEqual(exit_.exception.code, 0)
        for word in ("--calibrate-text", "uniform:T4", "q4_0:rotated", "--haystacks"):
            self.assertIn(word, " ".join(said.getvalue().split()))

    def test_a_mode_is_measured_once(self):
        self.assertEqual(run.names("exact, q4_0,exact"), ["exact", "q4_0"])

    def test_geometry_follows_from_what_is_given(self):
        for more, source in (((), "self"), (("--calibrate-text", "other.txt"), "text"), (("--geometry", "plain"), "plain"),
                             (("--geometry", "other.txt"), "file"), (("--modes", "q4_0,sphere:T4"), "plain")):
            self.assertEqual(run.geometry_command(self.parse("--text", "text.txt", *more))["source"], source)

    def test_takes_only_results_that_are_some(self):
        for text in ("", "[]", "{}", '{"rows": []}'):
            path = pathlib.Path(self.folder, "result.json")
            path.write_text(text)
            with self.assertRaisesRegex(run.Wrong, "no result"):
                run.stored(path)


class RowsTest(unittest.TestCase):
    def test_windows_count_the_same(self):
        windows = [{"q4_0": {"text": "a", "start": start, "kl": kl, "delta_nll": 0.1, "top1": 0.5, "rate_bits": 4.5, "rate_real_bits": 4.5}}
                   for start, kl in ((0, 0.1), (5, 0.3))]
        [one] = run.rows_of(["q4_0"], windows)
        self.assertAlmostEqual(one["mean_kl"], 0.2)
        self.assertAlmostEqual(one["delta_nll"], 0.1)
        self.assertEqual([window["start"] for window in one["windows"]], [0, 5])


class TableTest(unittest.TestCase):
    def test_shows_bars_where_they_were_promised(self):
        rows = [row("uniform:T4", 4.6, 0.002), row("uniform:T3", 3.6, 0.006), row("q4_0", 4.5, 0.005)]
        lines = table.quality(result(rows))
        self.assertEqual(lines[2], "| `uniform:T4` | 4.60 | 4.90 | 0.00200 | 0.00300 | -0.0010 | 98.7 % | <= 0.0022: met |")
        self.assertIn("<= 0.0055: **missed**", lines[3])
        self.assertTrue(lines[4].endswith("|  |"))
        self.assertEqual(table.missed(result(rows)), ["uniform:T3"])
        self.assertEqual(table.missed(result(rows, geometry="self")), [])  # its bars are wider
        for other in ({"activations": "int8"}, {"prefill": 512}, {"score": 64}):
            self.assertEqual(table.missed(result(rows, **other)), [])
        self.assertEqual(table.missed(result(rows) | {"model": "another.gguf"}), [])

    def test_numbers_keep_three_digits(self):
        self.assertEqual([table.nats(x) for x in (0, 0.0000123, 0.0021234, 0.0217, 0.217, 1.2345)],
                         ["0", "0.0000123", "0.00212", "0.0217", "0.217", "1.234"])

    def test_says_how_it_was_made(self):
        said = table.markdown(result([row("exact", 16, 0)]))
        for word in ("today", "c0ffee", "run.sh --text a.txt", "6,144", "10,000, 40,000", "f32", "calibrated on text"):
            self.assertIn(word, said)

    def test_lands_in_its_place_again_and_again(self):
        text = (HERE / "README.md").read_text()
        for kind in ("f32 text", "f32 self", "int8 text"):
            once = table.place(text, kind, "A TABLE\n")
            self.assertIn("A TABLE\n", once)
            self.assertEqual(table.place(once, kind, "A TABLE\n"), once)
        with self.assertRaises(table.NoPlace):
            table.place("no marks\n", "f32 text", "A TABLE\n")
        with self.assertRaises(table.NoPlace):
            table.check_place("int8 plain")


class PlotTest(unittest.TestCase):
    ROWS = [row("exact", 16, 0), row("exact:nudged", 16, 1e-7), row("uniform:T2", 2.6, 0.02), row("uniform:T4", 4.6, 0.002),
            row("q4_0", 4.5, 0.005), row("q4_0:rotated", 4.5, 0.003), row("sphere:T4", 4.6, 0.004), row("something:new", 3, 0.01)]

    def test_is_a_drawing_with_a_point_for_every_lossy_mode(self):
        drawing = ET.fromstring(plot.draw(self.ROWS, "KL & rate"))
        titles = [title.text for title in drawing.iter(SVG + "title")]
        self.assertEqual(len(titles), 6)
        self.assertIn("uniform:T2: 2.60 bits, 0.02 nats", titles)
        lines = [line.get("points").split() for line in drawing.iter(SVG + "polyline")]
        self.assertEqual(sorted(map(len, lines)), [1, 1, 1, 1, 2])

    def test_better_is_lower_and_dearer_is_further_right(self):
        drawing = ET.fromstring(plot.draw(self.ROWS, ""))
        points = {circle[0].text.split(": ")[0]: (float(circle.get("cx")), float(circle.get("cy")))
                  for circle in drawing.iter(SVG + "circle") if len(circle)}
        self.assertGreater(points["uniform:T4"][0], points["uniform:T2"][0])
        self.assertGreater(points["uniform:T4"][1], points["uniform:T2"][1])
        for x, y in points.values():
            self.assertTrue(plot.LEFT <= x <= plot.WIDTH - plot.RIGHT and plot.TOP <= y <= plot.HEIGHT - plot.BOTTOM)

    def test_every_mode_has_a_family_of_its_own(self):
        names = [name for name, _, _ in plot.series_of([("rdr:2.0", 2, 0.005), ("uniform:T4", 4.6, 0.002), ("new", 1, 1)])]
        self.assertEqual(names, ["sphericald, rate-distortion", "sphericald, one tier", "new"])

    def test_nothing_to_draw_is_no_error(self):
        ET.fromstring(plot.draw([row("exact", 16, 0)], "empty"))


class RetrievalTest(unittest.TestCase):
    def test_a_seed_makes_one_text(self):
        one, same, other = (retrieval.Haystack(seed, 6) for seed in (1, 1, 2))
        self.assertEqual(one.text(50), same.text(50))
        self.assertEqual(one.text(50), one.text(50))
        self.assertNotEqual(one.hidden, other.hidden)
        self.assertNotEqual(one.text(50), other.text(50))

    def test_lines_lie_at_their_depths(self):
        haystack = retrieval.Haystack(3, 6)
        text = haystack.text(400)
        for index, (word, number) in enumerate(haystack.hidden):
            line = retrieval.STATEMENT.format(word=word, number=number)
            self.assertEqual(text.count(line), 1)
            self.assertAlmostEqual(text.index(line) / len(text), haystack.depth(index), delta=0.03)

    def test_questions_hold_no_answers(self):
        haystack = retrieval.Haystack(3, 6)
        for one, (word, number) in zip(haystack.questions(), haystack.hidden):
            self.assertIn(word, one["question"])
            self.assertNotIn(number, one["question"])
            self.assertEqual(one["answer"].strip(), number)

    def test_a_text_has_nearly_the_tokens_asked_for(self):
        sentences = retrieval.sentences_for(1000, lambda n: 30 + 11 * n)
        self.assertLessEqual(30 + 11 * sentences, 1000)
        self.assertGreater(30 + 11 * sentences, 900)
        self.assertEqual(retrieval.sentences_for(5, lambda n: 30 + 11 * n), 1)

    def test_sums_by_depth(self):
        true = [[{"greedy": True, "logprob": -1.0}] * 4]
        told = [[{"greedy": index > 1, "logprob": -2.0 + index} for index in range(4)]]
        summary = retrieval.summarise({"exact": true, "q4_0": told}, 2)
        self.assertEqual(summary["depths"], [0.25, 0.75])
        near = summary["modes"][1]["depths"]
        self.assertEqual([(cell["asked"], cell["found"], cell["change"]) for cell in near], [(2, 0, -0.5), (2, 2, 1.5)])
        self.assertEqual(summary["modes"][1]["all"]["found"], 2)
        lines = table.retrieval(result() | {"retrieval": summary | {"haystacks": 1, "tokens": 512, "asked": 4, "seed": 1}})
        self.assertIn("| `q4_0` | 0/2 (-0.50) | 2/2 (+1.50) | 2/4 (+0.50) |", lines)
        self.assertEqual(table.retrieval(result()), [])


class ProgressTest(unittest.TestCase):
    def test_says_how_long_the_rest_takes(self):
        now = [0.0]
        out = io.StringIO()
        progress = run.Progress(100, out, lambda: now[0])
        self.assertIsNone(progress.left())
        with progress.step("first", 20):
            now[0] = 30.0
        self.assertEqual(progress.left(), 120)
        with progress.step("second", 80):
            pass
        self.assertEqual(out.getvalue().splitlines(), ["quality:   0 %, first", "quality:  20 %, 2:00 left, second"])
