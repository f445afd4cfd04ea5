"""Where niwfctl's files are: in the work tree, and in the git folder."""

from __future__ import annotations

import re

OBJECTS, MANIFESTS = "objects", "capabilities"  # folders of the work tree
OURS = (f"{MANIFESTS}/", f"{OBJECTS}/")  # determined by a commit's atlas
ATTRIBUTES_FILE = ".gitattributes"
LFS_CONFIG = ".lfsconfig"  # which git-lfs obeys, whoever committed it
ATTRIBUTES = (  # of new repositories; git alone must not merge two capabilities as text
    f"{OBJECTS}/*.safetensors filter=lfs diff=lfs merge=lfs -text\n{MANIFESTS}/*.json -merge\n"
)
PRIVATE = "niwf"  # folder of the git folder that all work trees share
QUARANTINE = "quarantine"  # in that one, where corrupt objects go
_OURS = re.compile(rf"{OBJECTS}/[0-9a-f]{{64}}\.safetensors|{MANIFESTS}/[^/]+\.json")


def object_file(oid: str) -> str:
    """Path of an object's pointer in the work tree."""
    return f"{OBJECTS}/{oid}.safetensors"


def manifest_file(name: str) -> str:
    """Path of a capability's manifest in the work tree."""
    return f"{MANIFESTS}/{name}.json"


def is_ours(path: str) -> bool:
    """Whether a file is a pointer or a manifest, rather than one that merely lies beside them."""
    return _OURS.fullmatch(path) is not None
