"""deploy/quotas.schema.json and the server's own parser say the same of good files and of bad ones."""
import json
import subprocess
import tempfile
import unittest

import jsonschema

CTL = "server/ctl/sphericalctl"
SCHEMA = "deploy/quotas.schema.json"
EXAMPLES = ("deploy/quotas.example.json", "deploy/kubernetes/base/quotas.json")
POOL = 1 << 30


def of_tenant(**fields):
    return {"version": 1, "tenants": {"default": fields}}


GOOD = [
    {"$schema": "quotas.schema.json", "version": 1, "tenants": {"default": {}}},
    {"version": 1, "tenants": {"A.b_c-9": {}, "x" * 63: {}}},
    *(of_tenant(limit_bytes=size) for size in (4736, "4736", "5000B", "2.5MiB", "1GiB", "500MB", "25%", "0.5%", "100%", "100.0%")),
    of_tenant(guarantee_bytes=0),
    of_tenant(weight=0.001, rate_floor_bits=0.5, rate_ceiling_bits=0.5),
    of_tenant(weight=1000, rate_floor_bits=16, rate_ceiling_bits=16, allow_drop=False),
    of_tenant(max_running=256, max_queued=1 << 20, tokens_per_minute=10**12, default_max_tokens=1 << 24, priority=100),
    of_tenant(max_running=0, max_queued=0, tokens_per_minute=0, default_max_tokens=1, priority=-100),
]
BAD = [
    [], 1, {}, {"version": 1}, {"tenants": {"a": {}}}, {"version": 2, "tenants": {"a": {}}}, {"version": "1", "tenants": {"a": {}}},
    {"version": 1, "tenants": {}}, {"version": 1, "tenants": []}, {"version": 1, "tenants": {"a": 1}},
    {"version": 1, "tenants": {"a": None}},
    {"version": 1, "tenants": {"a": {}}, "more": 1}, {"version": 1, "tenants": {"": {}}}, {"version": 1, "tenants": {"a b": {}}},
    {"version": 1, "tenants": {"x" * 64: {}}}, {"version": 1, "tenants": {"\u00e9": {}}},
    {"version": 1, "tenants": {f"t{i}": {} for i in range(1025)}},
    of_tenant(limit=5),
    *(of_tenant(limit_bytes=size) for size in (-1, 1 << 47, 0.5, True, None, [], "", "much", "-1", "1gib", "2G")),
    *(of_tenant(limit_bytes=share) for share in ("-5%", "101%", "%", "100.5%")),
    *(of_tenant(weight=weight) for weight in (0, -1, 1001, "1", None, True)),
    *(of_tenant(rate_floor_bits=rate) for rate in (0.4, 16.5, "2", None)),
    *(of_tenant(rate_ceiling_bits=rate) for rate in (0, 17)),
    *(of_tenant(allow_drop=drop) for drop in (0, 1, "true", None)),
    *(of_tenant(max_running=count) for count in (-1, 257, 0.5, "1")),
    *(of_tenant(max_queued=count) for count in (-1, (1 << 20) + 1)),
    *(of_tenant(tokens_per_minute=count) for count in (-1, 10**12 + 1, 1.5)),
    *(of_tenant(default_max_tokens=count) for count in (0, (1 << 24) + 1)),
    *(of_tenant(priority=priority) for priority in (-101, 101, 0.5)),
]
# What no schema can say.
BAD_TO_THE_SERVER_ONLY = [
    '{"version": 1, "tenants": {"a": {}, "a": {}}}',
    '{"version": 1, "tenants": {"a": {"weight": 1, "weight": 1}}}',
    of_tenant(limit_bytes="2GiB"), of_tenant(limit_bytes=4735), of_tenant(guarantee_bytes=9000, limit_bytes=8000),
    of_tenant(rate_floor_bits=4, rate_ceiling_bits=3), of_tenant(rate_floor_bits=2, allow_drop=False),
    {"version": 1, "tenants": {"a": {"guarantee_bytes": "60%"}, "b": {"guarantee_bytes": "60%"}}},
]


def schema():
    with open(SCHEMA, encoding="utf-8") as file:
        return json.load(file)


class QuotaSchemaTest(unittest.TestCase):
    def setUp(self):
        self.validator = jsonschema.Draft202012Validator(schema())

    def server_takes(self, quotas):
        """Whether `sphericalctl quota check`, which reads it as sphericald does, finds it good."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            file.write(quotas if isinstance(quotas, str) else json.dumps(quotas))
            file.flush()
            run = subprocess.run([CTL, "quota", "check", file.name, "--pool-bytes", str(POOL)], capture_output=True, text=True, timeout=60,
                                 check=False)
        self.assertIn(run.returncode, (0, 1), run.stderr)
        if run.returncode:
            self.assertIn(f"sphericalctl: {file.name}: ", run.stderr)
        return run.returncode == 0

    def test_the_schema_is_one(self):
        jsonschema.Draft202012Validator.check_schema(schema())

    def test_the_examples_are_good(self):
        for path in EXAMPLES:
            with self.subTest(path), open(path, encoding="utf-8") as file:
                example = json.load(file)
                self.assertEqual(list(self.validator.iter_errors(example)), [])
                self.assertTrue(self.server_takes(example))

    def test_both_take_what_is_good(self):
        for quotas in GOOD:
            with self.subTest(quotas):
                self.assertEqual([error.message for error in self.validator.iter_errors(quotas)], [])
                self.assertTrue(self.server_takes(quotas))

    def test_neither_takes_what_is_bad(self):
        for quotas in BAD:
            with self.subTest(str(quotas)[:100]):
                self.assertFalse(self.validator.is_valid(quotas))
                self.assertFalse(self.server_takes(quotas))

    def test_the_server_finds_what_no_schema_can_say(self):
        for quotas in BAD_TO_THE_SERVER_ONLY:
            with self.subTest(quotas):
                self.assertTrue(self.validator.is_valid(json.loads(quotas) if isinstance(quotas, str) else quotas))
                self.assertFalse(self.server_takes(quotas))

    def test_every_field_has_a_description(self):
        for name, field in schema()["$defs"]["tenant"]["properties"].items():
            self.assertIn("Default", field["description"], name)


if __name__ == "__main__":
    unittest.main()
