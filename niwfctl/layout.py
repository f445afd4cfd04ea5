"""Where niwfctl's files are: in the work tree, and in the git folder."""

from __future__ import annotations

OBJECTS, MANIFESTS = "objects", "capabilities"  # folders of the work tree
OURS = (f"{MANIFESTS}/", f"{OBJECTS}/")  # determined by a commit's atlas
ATTRIBUTES_FILE = ".gitattributes"
ATTRIBUTES = f"{OBJECTS}/*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
PRIVATE = "niwf"  # folder of the git folder that all work trees share
QUARANTINE = "quarantine"  # in that one, where corrupt objects go


def object_file(oid: str) -> str:
    """Path of an object's pointer in the work tree."""
    return f"{OBJECTS}/{oid}.safetensors"


def manifest_file(name: str) -> str:
    """Path of a capability's manifest in the work tree."""
    return f"{MANIFESTS}/{name}.json"
