"""The repository: git, the object store and the field behind one object."""

from niwfctl.repository.repository import Repository

__all__ = ["Repository"]
