"""Behaviour of the object store under use, damage and faults."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from niwfstore import (
    CorruptObject,
    MalformedPointer,
    MalformedTensors,
    MissingObject,
    ObjectStore,
    Pointer,
    StoreError,
    TensorBytes,
    check_tensors,
    output_file,
    read_metadata,
    write_atomic,
)
from safetensors.numpy import load_file

TENSORS = {
    "b": TensorBytes("F32", (2, 2), bytes(range(16))),
    "a": TensorBytes("U8", (3,), b"xyz"),
}
PUT = """
import sys
from collections.abc import Iterator
from pathlib import Path
from niwfstore import ObjectStore, TensorBytes
tensors = {"b": TensorBytes("F32", (2, 2), bytes(range(16))), "a": TensorBytes("U8", (3,), b"xyz")}
"""
KILL = """
import os, signal
countdown = int(sys.argv[2])
def killing(call):
    def wrapped(*args, **options):
        for moment in (lambda: None, lambda: call(*args, **options)):
            global countdown
            result = moment()
            countdown -= 1
            if countdown == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped
os.fsync, os.replace = killing(os.fsync), killing(os.replace)
"""
STORE = "print(ObjectStore(Path(sys.argv[1])).put_tensors(tensors, 'meta').oid)\n"


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects", tmp_path / "cache")


def damage(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_what_is_put_is_read_back_by_the_safetensors_library(store: ObjectStore) -> None:
    path = store.get(store.put_tensors(TENSORS, "meta").oid)
    assert load_file(path)["a"].tobytes() == b"xyz"
    assert load_file(path)["b"].tobytes() == bytes(range(16))
    assert read_metadata(path) == "meta"
    assert path.stat().st_mode & 0o777 == 0o444


def test_equal_tensors_get_equal_names_in_fresh_processes(tmp_path: Path) -> None:
    names = {run(PUT + STORE, tmp_path / str(i)).stdout for i in range(3)}
    assert len(names) == 1


def test_putting_twice_keeps_one_object_and_leaves_no_temporary_file(store: ObjectStore) -> None:
    assert store.put_tensors(TENSORS) == store.put_tensors(TENSORS)
    assert len(list(store)) == 1
    assert list((store.root / "tmp").iterdir()) == []


def test_putting_again_makes_an_object_young(store: ObjectStore) -> None:
    pointer = store.put_tensors(TENSORS)
    os.utime(store.path(pointer.oid), (0, 0))
    began = time.time()
    store.put_tensors(TENSORS)
    assert store.path(pointer.oid).stat().st_mtime >= began - 1
    assert store.get(pointer.oid)


def test_putting_again_mends_a_corrupt_object(store: ObjectStore) -> None:
    pointer = store.put_tensors(TENSORS)
    damage(store.path(pointer.oid), b"nonsense")
    store.put_tensors(TENSORS)
    store.verify(pointer.oid, pointer.size)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_flipped_bit_is_found_before_use(tmp_path_factory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("flip")
    store = ObjectStore(root, root / "cache")
    path = store.get(store.put_tensors(TENSORS).oid)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << place % 8
    damage(path, bytes(content))
    with pytest.raises(CorruptObject, match="hashes to"):
        ObjectStore(root, root / "cache").get(path.name)


def test_truncated_missing_and_linked_objects_are_named(store: ObjectStore, tmp_path) -> None:
    pointer = store.put_tensors(TENSORS)
    path = store.path(pointer.oid)
    content = path.read_bytes()
    damage(path, content[:-1])
    with pytest.raises(CorruptObject, match=f"expected {pointer.size} bytes"):
        store.get(pointer.oid, pointer.size)
    path.unlink()
    with pytest.raises(MissingObject, match=pointer.oid):
        store.get(pointer.oid)
    (tmp_path / "elsewhere").write_bytes(content)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptObject, match="regular file"):
        store.get(pointer.oid)


def test_only_what_is_corrupt_is_set_aside(store: ObjectStore, tmp_path: Path) -> None:
    pointer, folder = store.put_tensors(TENSORS), tmp_path / "aside"
    assert store.set_aside(pointer.oid, folder) is None
    path, elsewhere = store.get(pointer.oid, pointer.size), tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert store.set_aside(pointer.oid, folder) == folder / pointer.oid
    assert (folder / pointer.oid).is_symlink() and elsewhere.is_file()
    with pytest.raises(MissingObject):
        store.set_aside(pointer.oid, folder)
    store.put_tensors(TENSORS)
    damage(path, b"nonsense")
    assert store.set_aside(pointer.oid, folder).read_bytes() == b"nonsense"
    assert pointer.oid not in store


def test_what_is_set_aside_is_as_old_as_its_setting_aside(
    store: ObjectStore, tmp_path: Path
) -> None:
    path = store.path(store.put_tensors(TENSORS).oid)
    damage(path, b"nonsense")
    os.utime(path, (0, 0))
    assert store.set_aside(path.name, tmp_path).stat().st_mtime > time.time() - 3600


@pytest.mark.parametrize("oid", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_a_name_that_is_no_hash_is_refused(store: ObjectStore, oid: str) -> None:
    with pytest.raises(StoreError, match="64 hexadecimal digits"):
        store.path(oid)


def test_a_kill_at_any_fsync_or_rename_leaves_the_object_whole_or_absent(tmp_path: Path) -> None:
    for moment in range(1, 100):
        root = tmp_path / str(moment)
        finished = run(PUT + KILL + STORE, root, moment).returncode == 0
        store = ObjectStore(root)
        for oid in store:
            store.verify(oid)
        store.put_tensors(TENSORS, "meta")
        assert len(list(store)) == 1
        if finished:
            break
    assert finished
    assert moment > 8


def test_a_full_disk_leaves_nothing_behind(store: ObjectStore, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    (store.root / "tmp").mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put_tensors(TENSORS)
    assert list(store) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_a_buffer_that_does_not_fit_its_shape_is_refused(store: ObjectStore) -> None:
    with pytest.raises(MalformedTensors, match="needs 8 bytes, not 3"):
        store.put_tensors({"x": TensorBytes("F32", (2,), b"abc")})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        b'\x40\0\0\0\0\0\0\0{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}' + b" " * 12,
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(MalformedTensors):
        check_tensors(tmp_path / "x.safetensors")


def test_bytes_that_are_no_safetensors_are_never_handed_out(store: ObjectStore) -> None:
    content = (1 << 60).to_bytes(8, "little") + b"{}"
    path = store.path(hashlib.sha256(content).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for use in (store.get, store.verify):
        with pytest.raises(CorruptObject, match=f"{path.name} is corrupt: not well-formed"):
            use(path.name)


def test_a_broken_memory_only_costs_a_hash(tmp_path: Path) -> None:
    oid = ObjectStore(tmp_path, tmp_path).put_tensors(TENSORS).oid
    (tmp_path / "verified.json").write_text("{nonsense")
    assert ObjectStore(tmp_path, tmp_path).get(oid).is_file()


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what is hashed from now on."""
    names, digest = [], hashlib.file_digest

    def noting(file, kind: str):
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", noting)
    return names


def several(store: ObjectStore, number: int) -> list[str]:
    each = (TENSORS | {"c": TensorBytes("U8", (2,), bytes([n, 7]))} for n in range(number))
    return [store.put_tensors(tensors).oid for tensors in each]


def test_what_was_hashed_is_remembered_by_every_process_whatever_others_remember(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [ObjectStore(tmp_path, tmp_path / "cache") for _ in range(2)]
    oids = several(stores[0], 6)
    (tmp_path / "cache" / "verified.json").unlink()
    stores = [ObjectStore(tmp_path, tmp_path / "cache") for _ in range(2)]
    for number, oid in enumerate(oids):
        stores[number % 2].get(oid)
    names = hashed(monkeypatch)
    for oid in oids:
        ObjectStore(tmp_path, tmp_path / "cache").get(oid)
    assert not names


def test_a_line_of_the_memory_that_a_kill_cut_short_costs_one_hash(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = several(store, 3)
    memory = tmp_path / "cache" / "verified.json"
    *whole, last = memory.read_bytes().split(b"\n")
    memory.write_bytes(b"\n".join([*whole, last[:-9]]))
    names = hashed(monkeypatch)
    for _ in range(2):
        for oid in (first, second, third):
            ObjectStore(store.root, tmp_path / "cache").get(oid)
    assert names == [third]


def test_the_memory_grows_by_what_is_new_alone(store: ObjectStore, tmp_path: Path) -> None:
    oids = several(store, 100)
    memory = tmp_path / "cache" / "verified.json"
    before = memory.read_bytes()
    for oid in oids:
        store.verify(oid)
    assert memory.read_bytes() == before
    store.put_tensors(TENSORS)
    assert memory.read_bytes().startswith(before)
    assert len(memory.read_bytes()) < len(before) * 1.1


def test_the_memory_is_shortened_once_most_of_it_is_out_of_date(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "cache" / "verified.json"
    oids = [store.put_tensors(TENSORS).oid for _ in range(150)]
    names = hashed(monkeypatch)
    ObjectStore(store.root, tmp_path / "cache").get(oids[0])
    assert not names and len(memory.read_bytes()) < 200


@given(oid=st.binary(min_size=32, max_size=32).map(bytes.hex), size=st.integers(0, 2**60))
def test_a_pointer_survives_its_text(oid: str, size: int) -> None:
    assert Pointer.parse(Pointer(oid, size).text()) == Pointer(oid, size)


@pytest.mark.parametrize("change", [("sha256", "md5"), ("size 3", "size -3"), ("\n", "\r\n")])
def test_a_malformed_pointer_is_refused(change: tuple[str, str]) -> None:
    with pytest.raises(MalformedPointer):
        Pointer.parse(Pointer("0" * 64, 3).text().replace(*change).encode())


def test_an_output_behind_a_link_is_written_whole_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link", tmp_path / "there" / "target"
    link.symlink_to(Path("there", "target"))
    for content in (b"first", b"second"):
        with output_file(link) as file:
            file.write(content)
        assert link.is_symlink() and target.read_bytes() == content
    with pytest.raises(ZeroDivisionError), output_file(link) as file:
        file.write(b"half")
        _ = 1 / 0
    assert target.read_bytes() == content and list(target.parent.iterdir()) == [target]


@pytest.fixture
def private() -> Iterator[None]:
    """Others may do nothing with what is made."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("private")
def test_the_umask_decides_who_may_read_a_new_file(store: ObjectStore, tmp_path: Path) -> None:
    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    with output_file(tmp_path / "output"):
        pass
    write_atomic(tmp_path / "file", b"")
    write_atomic(tmp_path / "hook", b"", mode=0o777)
    assert [mode(tmp_path / name) for name in ("output", "file", "hook")] == [0o600, 0o600, 0o700]
    assert mode(store.path(store.put_tensors(TENSORS).oid)) == 0o400


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_an_output_has_the_permissions_of_what_it_replaces(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "output"
    path.touch()
    path.chmod(mode)
    with output_file(path) as file:
        (half,) = tmp_path.glob(".tmp-*")
        assert half.stat().st_mode & 0o777 == mode
        file.write(b"content")
    assert path.stat().st_mode & 0o777 == mode and path.read_bytes() == b"content"


def test_an_output_goes_into_a_pipe_that_is_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        with output_file(tmp_path / "pipe") as file:
            file.write(b"content")
        assert reader.stdout.read() == b"content"
    assert (tmp_path / "pipe").is_fifo()
