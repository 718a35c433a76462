"""What `kubectl kustomize FOLDER` prints, for the few features that deploy/kubernetes uses; anything else is an error.

Debian 12's own kubectl (1.20) is too old for the overlay, and a test must not depend on whether somebody installed another.
tests/deploy/run.sh compares the two wherever a kubectl is at hand.
"""
import copy
import hashlib
import json
import os

import yaml

_KEEPS_ITS_NAME = "disableNameSuffixHash"  # set on a config map while it is assembled
_KNOWN = {"apiVersion", "kind", "resources", "configMapGenerator", "images", "patches"}


def documents_of(path):
    """The resources in one file of YAML."""
    with open(path, encoding="utf-8") as file:
        return [document for document in yaml.safe_load_all(file) if document]


def key(document):
    """What tells one resource of a rendering from all others."""
    return document["kind"], document["metadata"]["name"]


def render(folder):
    """All resources of a kustomization: names of config maps carry their hash, and what refers to them does too."""
    documents = _assemble(folder)
    renamed = {}
    for document in documents:
        if document["kind"] == "ConfigMap" and not document.pop(_KEEPS_ITS_NAME, False):
            name = document["metadata"]["name"]
            renamed[name] = f"{name}-{_content_hash(document)}"
            document["metadata"]["name"] = renamed[name]
    for document in documents:
        for volume in _pod_spec(document).get("volumes", []):
            if volume.get("configMap", {}).get("name") in renamed:
                volume["configMap"]["name"] = renamed[volume["configMap"]["name"]]
    return documents


def _assemble(folder):
    path = os.path.join(folder, "kustomization.yaml")
    [kustomization] = documents_of(path)
    if unknown := set(kustomization) - _KNOWN:
        raise ValueError(f"{path}: {', '.join(sorted(unknown))}: not known here: teach tests/deploy/kustomization.py")
    documents = []
    for resource in kustomization.get("resources", []):
        full = os.path.join(folder, resource)
        documents += _assemble(full) if os.path.isdir(full) else documents_of(full)
    for generator in kustomization.get("configMapGenerator", []):
        _generate(folder, generator, documents)
    for patch in kustomization.get("patches", []):
        if set(patch) != {"path"}:
            raise ValueError(f"{path}: a patch is a path here, not {patch}")
        for change in documents_of(os.path.join(folder, patch["path"])):
            [target] = [document for document in documents if key(document) == key(change)]
            _merge(target, change, key(change)[1])
    for image in kustomization.get("images", []):
        for document in documents:
            for container in _pod_spec(document).get("containers", []):
                name, _, tag = container["image"].partition(":")
                if name == image["name"]:
                    container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
    keys = [key(document) for document in documents]
    if len(set(keys)) != len(keys):
        raise ValueError(f"{path}: a resource comes twice: {sorted(keys)}")
    return documents


def _generate(folder, generator, documents):
    if set(generator) - {"name", "files", "behavior", "options"} or set(generator.get("options", {})) - {_KEEPS_ITS_NAME}:
        raise ValueError(f"{folder}: a config map is made of files here, not of {generator}")
    data = {}
    for name in generator["files"]:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            data[os.path.basename(name)] = file.read()
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
    there = [document for document in documents if key(document) == key(made)]
    if bool(there) != (generator.get("behavior") == "replace"):
        raise ValueError(f"{folder}: config map {generator['name']}: there is {'one already' if there else 'none to replace'}")
    if generator.get("options", {}).get(_KEEPS_ITS_NAME):
        made[_KEEPS_ITS_NAME] = True
    if there:
        there[0]["data"] = data
    else:
        documents.append(made)


def _content_hash(config_map):
    """As kustomize has it: ten hexadecimal digits that spell no words. (It means to hash the name too, and hashes none.)"""
    content = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&":  # Go's JSON is safe to put into HTML
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return hashlib.sha256(text.encode()).hexdigest()[:10].translate(str.maketrans("013ae", "ghkmt"))


def _merge(target, change, where):
    """A strategic merge: maps deeply, lists whose items have names by name, other lists whole."""
    for name, value in change.items():
        old = target.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value, f"{where}.{name}")
        elif isinstance(value, list) and isinstance(old, list) and any(isinstance(item, dict) for item in value + old):
            if not all("name" in item for item in value + old):
                raise ValueError(f"{where}.{name}: these items have no names: teach tests/deploy/kustomization.py how to merge them")
            by_name = {item["name"]: item for item in old}
            for item in value:
                if item["name"] in by_name:
                    _merge(by_name[item["name"]], item, f"{where}.{name}.{item['name']}")
                else:
                    old.append(copy.deepcopy(item))
        elif value is None:
            target.pop(name, None)
        else:
            target[name] = copy.deepcopy(value)


def _pod_spec(document):
    """The pod of a workload; nothing for other kinds."""
    if document["kind"] == "Pod":
        return document["spec"]
    return document.get("spec", {}).get("template", {}).get("spec", {})
