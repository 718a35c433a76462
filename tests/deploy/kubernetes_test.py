"""deploy/kubernetes: what the cluster would be given is valid, fits together, and fits the server. Each check finds a planted mistake."""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import check_manifests
import kustomization

sys.path.insert(0, "tests/clients")
import sphericald

MANIFESTS = "deploy/kubernetes"
# The config names the place where the cluster mounts it.
QUOTAS = os.path.join(MANIFESTS, "base", "quotas.json")
FOLDERS = ("base", "overlays/large")


def rendered(folder, root=MANIFESTS):
    return kustomization.render(os.path.join(root, folder))


def config_of(folder):
    return os.path.join(MANIFESTS, folder, "config.json")


class ManifestsTest(unittest.TestCase):
    """The manifests as they are."""

    def test_kubernetes_would_take_them(self):
        for folder in FOLDERS:
            self.assertEqual(list(check_manifests.schema_findings(rendered(folder))), [], folder)
        self.assertEqual(list(check_manifests.schema_findings(kustomization.documents_of(f"{MANIFESTS}/model_loader.yaml"))), [])

    def test_they_fit_together(self):
        weights = os.path.getsize(sphericald.model_path())
        for folder in FOLDERS:
            self.assertEqual(check_manifests.check(rendered(folder), weights), [], folder)

    def test_every_file_is_used(self):
        files = {os.path.relpath(path, MANIFESTS) for path in glob.glob(f"{MANIFESTS}/**/*", recursive=True) if os.path.isfile(path)}
        used = {"model_loader.yaml"}
        for folder in FOLDERS:
            [own] = kustomization.documents_of(f"{MANIFESTS}/{folder}/kustomization.yaml")
            names = ["kustomization.yaml", *own["resources"], *(patch["path"] for patch in own.get("patches", []))]
            for generator in own["configMapGenerator"]:
                names += generator["files"]
            used |= {os.path.join(folder, name) for name in names}
        self.assertEqual(files, {path for path in used if os.path.isfile(f"{MANIFESTS}/{path}")})

    def test_the_model_loader_fills_the_volume_that_is_served(self):
        [loader] = kustomization.documents_of(f"{MANIFESTS}/model_loader.yaml")
        served = check_manifests.Rendering(rendered("base"))
        [volume] = loader["spec"]["volumes"]
        self.assertEqual(volume, served.mount("/models")[1])
        self.assertEqual(loader["spec"]["securityContext"], served.pod["securityContext"])
        self.assertEqual(loader["spec"]["containers"][0]["image"], served.container["image"])
        # Neither the service nor the budget must take it for a server.
        self.assertNotEqual(loader["metadata"]["labels"]["app.kubernetes.io/component"],
                            served.service["spec"]["selector"]["app.kubernetes.io/component"])

    def test_another_config_is_another_name(self):
        names = {check_manifests.Rendering(rendered(folder)).config_map["metadata"]["name"] for folder in FOLDERS}
        self.assertEqual(len(names), 2, names)

    def test_other_quotas_are_not_another_name(self):
        for folder in FOLDERS:
            self.assertEqual(check_manifests.Rendering(rendered(folder)).quota_map["metadata"]["name"], "spherical-quotas")


class ServerTest(unittest.TestCase):
    """The manifests and the program of this build."""

    def run_server(self, *flags):
        return subprocess.run([sphericald.PROGRAM, *flags], capture_output=True, text=True, check=False, timeout=60)

    def test_the_configs_are_good(self):
        for folder in FOLDERS:
            # The pool is checked against the memory of this machine, which need not be the node's.
            run = self.run_server("--config", config_of(folder), "--check-config", "--kv-pool-bytes", "64MiB", "--quotas", QUOTAS)
            self.assertEqual(run.returncode, 0, run.stderr)

    def test_a_config_with_an_unknown_key_is_not(self):
        with open(config_of("base"), encoding="utf-8") as file:
            config = json.load(file)
        config["kv"]["pool_byte"] = 1
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(config, file)
            file.flush()
            run = self.run_server("--config", file.name, "--check-config")
        self.assertEqual(run.returncode, 1)
        self.assertIn("pool_byte", run.stderr)

    def test_the_image_is_named_after_the_version(self):
        version = self.run_server("--version").stdout.split()[-1]
        for folder in FOLDERS:
            self.assertEqual(check_manifests.Rendering(rendered(folder)).container["image"].rpartition(":")[2], version)

    def test_the_server_answers_every_probe(self):
        served = check_manifests.Rendering(rendered("base"))
        # Flags go over the file: loopback, a smaller pool.
        with sphericald.Daemon("--config", config_of("base"), "--quotas", QUOTAS) as daemon:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                self.assertEqual(daemon.status(served.container[probe]["grpc"]["service"]), 1, probe)
            daemon.terminate()
            self.assertEqual(daemon.exit_code(), 0)


class PlantedTest(unittest.TestCase):
    """A copy of the manifests with one mistake in it."""

    def setUp(self):
        self.root = os.path.join(tempfile.mkdtemp(), "kubernetes")
        self.addCleanup(shutil.rmtree, os.path.dirname(self.root))
        shutil.copytree(MANIFESTS, self.root)

    def plant(self, name, old, new):
        path = os.path.join(self.root, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertIn(old, text)
        os.remove(path)  # Bazel's copies are not ours to write
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new, 1))

    def findings(self, folder="base"):
        return check_manifests.check(rendered(folder, self.root))

    def test_each_mistake_is_found(self):
        deployment, config = "base/deployment.yaml", "base/config.json"
        for name, old, new, said in (
                (deployment, "service: spherical.v1.Inference", "service: spherical.v1.Inferense", "startupProbe: asks for"),
                (deployment, 'service: ""', "service: spherical.v1.Inference", "livenessProbe: asks for"),
                (deployment, "port: 50051", "port: 1", "startupProbe: port 1"),
                (deployment, "failureThreshold: 300", "failureThreshold: 30", "startupProbe: gives up after 60 s"),
                (deployment, "progressDeadlineSeconds: 900", "progressDeadlineSeconds: 600", "progressDeadlineSeconds: must be"),
                (deployment, "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 39", "terminationGracePeriodSeconds: 39"),
                (deployment, "terminationGracePeriodSeconds: 45", "hostNetwork: false", "terminationGracePeriodSeconds: 30"),
                (config, '"grace_ms": 30000', '"grace_ms": 36000', "make 46"),
                (deployment, 'command: [sleep, "5"]', 'command: [sleep, "11"]', "make 46"),
                (config, '"pool_bytes": "1GiB"', '"pool_bytes": "2GiB"', "memory: the limit is"),
                (config, ', "prefill_workspace_bytes": "256MiB"', "", "kv.prefill_workspace_bytes"),
                (deployment, "memory: 2Gi", "memory: 1Gi", "request and limit differ"),
                (deployment, 'limits:\n              cpu: "2"', "limits:", "a thread for every core"),
                (config, "0.0.0.0:50051", "127.0.0.1:50051", "from outside"),
                (config, "0.0.0.0:50051", "0.0.0.0:50052", "grpc.listen has 50052"),
                (config, '"/models/', '"/model/', "the models are in /models"),
                (deployment, "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"),
                (deployment, "runAsUser: 65532", "runAsUser: 0", "runAsUser"),
                (deployment, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRootFilesystem"),
                (deployment, "automountServiceAccountToken: false", "", "of the pod"),
                (deployment, "drop: [ALL]", "drop: [NET_RAW]", "capabilities.drop"),
                ("base/service_account.yaml", "automountServiceAccountToken: false", "", "of the account"),
                (deployment, "mountPath: /models\n              readOnly: true", "mountPath: /models", "/models: must be read-only"),
                (deployment, "mountPath: /cache", "mountPath: /cash", "/cache: nothing is mounted"),
                (deployment, "claimName: spherical-cache", "claimName: spherical-cash", "/cache: claims spherical-cash"),
                (deployment, "name: spherical-config", "name: spherical-conf", "not the config map"),
                (deployment, "mountPath: /etc/spherical", "mountPath: /etc/spheric", "no config map is mounted"),
                (config, "/etc/spherical-quotas/", "/etc/quotas/", "nothing is mounted in its folder"),
                (config, "/quotas.json", "/quota.json", "quota.json is not in the config map"),
                (deployment, "name: spherical-quotas", "name: spherical-quota", "not the config map spherical-quotas"),
                (deployment, "mountPath: /etc/spherical-quotas", "mountPath: /etc/spherical-quotas\n              subPath: quotas.json",
                 "a subPath never sees a change"),
                ("base/kustomization.yaml", "      disableNameSuffixHash: true", "      disableNameSuffixHash: false", "carries a hash"),
                ("base/service.yaml", "targetPort: grpc", "targetPort: http", "Service: leads to"),
                ("base/service.yaml", "selector:\n    app.kubernetes.io/name: spherical", "selector:\n    app.kubernetes.io/name: spheric",
                 "Service: selects"),
                ("base/disruption_budget.yaml", "maxUnavailable: 1", "minAvailable: 1", "can never be drained"),
        ):
            with self.subTest(new):
                self.setUp()
                self.plant(name, old, new)
                findings = self.findings()
                self.assertTrue(any(said in finding for finding in findings), f"{said}: not in {findings}")

    def test_a_patch_must_fit_its_config(self):
        self.plant("overlays/large/deployment_patch.yaml", "terminationGracePeriodSeconds: 135", "terminationGracePeriodSeconds: 45")
        self.plant("overlays/large/config.json", '"pool_bytes": "8GiB"', '"pool_bytes": "9GiB"')
        said = "\n".join(self.findings("overlays/large"))
        self.assertIn("terminationGracePeriodSeconds: 45", said)
        self.assertIn("memory: the limit is", said)

    def test_kubernetes_would_refuse(self):
        self.plant("base/deployment.yaml", "readinessProbe:", "readynessProbe:")
        said = "\n".join(check_manifests.schema_findings(rendered("base", self.root)))
        self.assertIn("readynessProbe", said)

    def test_what_is_not_assembled_here(self):
        self.plant("base/kustomization.yaml", "resources:", "namePrefix: our-\nresources:")
        with self.assertRaisesRegex(ValueError, "namePrefix"):
            rendered("base", self.root)
        self.setUp()
        self.plant("overlays/large/kustomization.yaml", "    behavior: replace\n", "")
        with self.assertRaisesRegex(ValueError, "one already"):
            rendered("overlays/large", self.root)

    def test_another_rendering(self):
        ours, theirs = rendered("base"), rendered("base")
        self.assertEqual(list(check_manifests.differences(ours, theirs[::-1])), [])
        check_manifests.Rendering(theirs).container["image"] = "other"
        [difference] = check_manifests.differences(ours, theirs)
        self.assertIn("containers.0.image: kubectl has \"other\"", difference)

    def test_sizes(self):
        for size, expected in (("1GiB", 1 << 30), ("2Gi", 2 << 30), ("500MB", 500_000_000), ("500M", 500_000_000), ("1KB", 1000), (7, 7)):
            self.assertEqual(check_manifests.bytes_of(size), expected)
        with self.assertRaises(ValueError):
            check_manifests.bytes_of("much")
