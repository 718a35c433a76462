"""What no schema can say of the manifests: that they fit each other, the config they carry, and the server they start.

check_manifests.py RENDERED [OURS]: checks a file of YAML that kubectl rendered, and that OURS, a kustomization folder rendered by
kustomization.py, is the same. Prints findings; exit 1 if there are any.
"""
import json
import re
import sys

import kubernetes_validate
import yaml

import kustomization

VERSIONS = ("1.27", "1.30", kubernetes_validate.latest_version())  # from the first whose gRPC probes are stable
LIVE, READY = "", "spherical.v1.Inference"  # server/health_service.h
GRACE_MARGIN_S = 5  # the last second for clients, and for a busy node
STARTUP_LEAST_S = 300  # a first start calibrates: half a minute for the smallest of models
PROCESS_BYTES = 512 << 20  # code, gRPC's 256 MiB of buffers, activations

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def bytes_of(size):
    """Of "1GiB" or "500MB" as in a config, of "2Gi" or "500M" as in a manifest, of a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(k|K|Ki|M|Mi|G|Gi|T|Ti|)B?", str(size))
    if not match:
        raise ValueError(f"{size} is no size")
    return int(float(match[1]) * _UNITS["k" if match[2] == "K" else match[2]])


def schema_findings(documents, versions=VERSIONS):
    """What Kubernetes itself would refuse, unknown fields included."""
    for document in documents:
        for version in versions:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(str(part) for part in error.path)
                yield f"{'/'.join(kustomization.key(document))}: {path}: {error.message} (Kubernetes {version})"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{'/'.join(kustomization.key(document))}: {error.message}"


class Rendering:
    """The resources of one server, found by kind, and the config within."""

    def __init__(self, documents):
        self.documents = documents
        self.deployment = self._only("Deployment")
        self.pod = self.deployment["spec"]["template"]["spec"]
        [self.container] = self.pod["containers"]
        self.service, self.budget, self.account = map(self._only, ("Service", "PodDisruptionBudget", "ServiceAccount"))
        self.claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
        [self.config_map] = [document for document in documents if "config.json" in document.get("data", {})]
        [self.quota_map] = [document for document in documents if "quotas.json" in document.get("data", {})]
        self.config = json.loads(self.config_map["data"]["config.json"])

    def _only(self, kind):
        [document] = [document for document in self.documents if document["kind"] == kind]
        return document

    def setting(self, name, default):
        """Of the config: "kv.pool_bytes". The defaults are those of server/README.md."""
        section, _, rest = name.partition(".")
        return self.config.get(section, {}).get(rest, default)

    @property
    def port(self):
        return int(self.setting("grpc.listen", "127.0.0.1:50051").rpartition(":")[2])

    def mount(self, path):
        """(mount, volume) of a path in the container, or (None, None)."""
        mount = next((mount for mount in self.container["volumeMounts"] if mount["mountPath"] == path), None)
        return mount, mount and next((volume for volume in self.pod["volumes"] if volume["name"] == mount["name"]), None)


def check(documents, weight_bytes=0):
    """Findings of a rendering. `weight_bytes`: of the model that its config names."""
    r = Rendering(documents)
    return [*_probes(r), *_times(r), *_memory(r, weight_bytes), *_security(r), *_volumes(r), *_selection(r)]


def _probes(r):
    for name, service in (("startupProbe", READY), ("readinessProbe", READY), ("livenessProbe", LIVE)):
        probe = r.container.get(name, {}).get("grpc")
        if probe is None:
            yield f"{name}: no gRPC probe"
            continue
        if probe.get("service", "") != service:
            yield f"{name}: asks for '{probe.get('service', '')}', but the server has '{service}' for that"
        if probe["port"] != r.port:
            yield f"{name}: port {probe['port']}, but grpc.listen has {r.port}"
    if [port["containerPort"] for port in r.container["ports"]] != [r.port]:
        yield f"containerPort: {r.container['ports']}, but grpc.listen has {r.port}"
    if not r.setting("grpc.listen", "127.0.0.1:50051").startswith(("0.0.0.0:", "[::]:")):
        yield "grpc.listen: must take connections from outside of the pod: 0.0.0.0:PORT or [::]:PORT"
    targets = [port["targetPort"] for port in r.service["spec"]["ports"]]
    if targets != [port["name"] for port in r.container["ports"]]:
        yield f"Service: leads to {targets}, which is not the container's port"


def _times(r):
    command = r.container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    if command[0] != "sleep":
        yield f"preStop: {command}: only a sleep can be reckoned with"
        return
    needed = int(command[1]) + r.setting("drain.grace_ms", 30_000) / 1000 + GRACE_MARGIN_S
    grace = r.pod.get("terminationGracePeriodSeconds", 30)
    if grace < needed:
        yield (f"terminationGracePeriodSeconds: {grace}, but preStop {command[1]} s, drain.grace_ms "
               f"{r.setting('drain.grace_ms', 30_000)} and a margin of {GRACE_MARGIN_S} s make {needed:g}: sequences would be killed")
    probe = r.container.get("startupProbe", {})
    startup = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    if startup < STARTUP_LEAST_S:
        yield f"startupProbe: gives up after {startup} s; a first start calibrates, give it at least {STARTUP_LEAST_S}"
    if r.deployment["spec"].get("progressDeadlineSeconds", 600) <= startup:
        yield f"progressDeadlineSeconds: must be more than the {startup} s that the startup probe waits"


def _memory(r, weight_bytes):
    pool, workspace = (bytes_of(r.setting("kv." + name, default)) for name, default in (
        ("pool_bytes", 1 << 30), ("prefill_workspace_bytes", 0)))
    if not workspace:
        yield "kv.prefill_workspace_bytes: say how much, or nobody knows what the pod needs"
    needed = pool + workspace + weight_bytes + PROCESS_BYTES
    resources = r.container.get("resources", {})
    limit = bytes_of(resources.get("limits", {}).get("memory", 0))
    if limit < needed:
        yield (f"memory: the limit is {limit}, but pool {pool}, prefill workspace {workspace}, weights {weight_bytes} and "
               f"{PROCESS_BYTES} for the process make {needed}")
    if bytes_of(resources.get("requests", {}).get("memory", 0)) != limit:
        yield "memory: request and limit differ; what the pool promises must be there"
    if not resources.get("limits", {}).get("cpu") and not r.config.get("threads"):
        yield "cpu: without a limit, sphericald starts a thread for every core of the node"


def _security(r):
    pod, own = r.pod.get("securityContext", {}), r.container.get("securityContext", {})
    wanted = (
        ("runAsNonRoot", pod.get("runAsNonRoot"), True),
        ("seccompProfile", pod.get("seccompProfile", {}).get("type"), "RuntimeDefault"),
        ("allowPrivilegeEscalation", own.get("allowPrivilegeEscalation"), False),
        ("readOnlyRootFilesystem", own.get("readOnlyRootFilesystem"), True),
        ("capabilities.drop", own.get("capabilities"), {"drop": ["ALL"]}),
        ("automountServiceAccountToken of the pod", r.pod.get("automountServiceAccountToken"), False),
        ("automountServiceAccountToken of the account", r.account.get("automountServiceAccountToken"), False),
        ("serviceAccountName", r.pod.get("serviceAccountName"), r.account["metadata"]["name"]),
        ("fsGroup", pod.get("fsGroup"), pod.get("runAsGroup")),
    )
    for name, found, expected in wanted:
        if found != expected:
            yield f"{name}: {found}, not {expected}"
    if not pod.get("runAsUser"):
        yield "runAsUser: a number other than 0, so that the kubelet can tell that it is not root"


def _volumes(r):
    path = r.container["args"][r.container["args"].index("--config") + 1] if "--config" in r.container["args"] else ""
    mount, volume = r.mount(path.rpartition("/")[0])
    if not path.endswith("/config.json") or not mount:
        yield f"--config: {path or 'not given'}: no config map is mounted there"
    elif volume.get("configMap", {}).get("name") != r.config_map["metadata"]["name"]:
        yield f"--config: the volume shows {volume}, not the config map {r.config_map['metadata']['name']}"
    yield from _quotas(r)
    for path, read_only in (("/models", True), ("/cache", False)):
        mount, volume = r.mount(path)
        if not mount:
            yield f"{path}: nothing is mounted there"
            continue
        if mount.get("readOnly", False) != read_only:
            yield f"{path}: must be {'read-only' if read_only else 'writable'}"
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim not in r.claims:
            yield f"{path}: claims {claim}, which is not among {sorted(r.claims)}"
    if not r.config.get("model", "").startswith("/models/"):
        yield f"model: {r.config.get('model')}, but the models are in /models"


def _quotas(r):
    """A map that changes under the running server: mounted whole, under a name that stays."""
    folder, _, name = r.config.get("quotas", "").rpartition("/")
    mount, volume = r.mount(folder)
    if not mount:
        yield f"quotas: {r.config.get('quotas')}: nothing is mounted in its folder"
        return
    if volume.get("configMap", {}).get("name") != r.quota_map["metadata"]["name"]:
        yield f"quotas: the volume shows {volume}, not the config map {r.quota_map['metadata']['name']}"
    if "subPath" in mount:
        yield "quotas: a subPath never sees a change of its config map; mount the folder"
    if re.search(r"-[0-9a-z]{10}$", r.quota_map["metadata"]["name"]):
        yield "quotas: the map's name carries a hash, so a change would be a rollout; disableNameSuffixHash"
    if name not in r.quota_map["data"]:
        yield f"quotas: {name} is not in the config map"


def _selection(r):
    labels = r.deployment["spec"]["template"]["metadata"]["labels"]
    for who, wanted in (("Deployment", r.deployment["spec"]["selector"]["matchLabels"]), ("Service", r.service["spec"]["selector"]),
                        ("PodDisruptionBudget", r.budget["spec"]["selector"]["matchLabels"])):
        if not wanted or not wanted.items() <= labels.items():
            yield f"{who}: selects {wanted}, but the pods have {labels}"
    if not r.budget["spec"].get("maxUnavailable"):
        yield "PodDisruptionBudget: without maxUnavailable, a node with the only replica can never be drained"
    for document in r.documents:
        given = document["metadata"].get("labels", {})
        if document["kind"] != "ConfigMap" and given.get("app.kubernetes.io/name") != "spherical":
            yield f"{'/'.join(kustomization.key(document))}: no label app.kubernetes.io/name: spherical"


def differences(ours, theirs):
    """Where two renderings are not the same; the order of resources means nothing."""
    ours, theirs = ({"/".join(kustomization.key(document)): document for document in documents} for documents in (ours, theirs))
    return _differences(ours, theirs, "")


def _differences(ours, theirs, where):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            yield from _differences(ours.get(name), theirs.get(name), f"{where}.{name}".lstrip("."))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs)):
            yield from _differences(one, other, f"{where}.{index}")
    elif ours != theirs:
        yield f"{where}: kubectl has {json.dumps(theirs)}, kustomization.py has {json.dumps(ours)}"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    findings = [*schema_findings(documents), *check(documents)]
    if len(sys.argv) > 2:
        findings += differences(kustomization.render(sys.argv[2]), documents)
    print("\n".join(findings + [f"{len(documents)} resources, {len(findings)} findings"]))
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
