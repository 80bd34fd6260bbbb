import numpy as np
import pytest

from harness.store.cache import cached, cached_path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))


def counted(value):
    calls = []

    def compute():
        calls.append(value)
        return np.full((2, 3), value, np.float32)

    return compute, calls


def test_an_array_is_computed_once_and_read_the_next_time():
    compute, calls = counted(1.5)
    first, second = cached("kind", "key", compute), cached("kind", "key", compute)
    np.testing.assert_array_equal(first, second)
    assert second.dtype == np.float32
    assert len(calls) == 1


def test_kinds_and_keys_are_apart():
    cached("one", "key", counted(1)[0])
    assert cached("two", "key", counted(2)[0])[0, 0] == 2
    assert cached("one", "other", counted(3)[0])[0, 0] == 3
    assert cached("one", "key", counted(4)[0])[0, 0] == 1


@pytest.mark.parametrize("torn", [b"", b"\x93NUMPY\x01", b"not an array at all"])
def test_a_torn_file_is_computed_again(torn):
    cached("kind", "key", counted(1)[0])
    cached_path("kind", "key").write_bytes(torn)
    assert cached("kind", "key", counted(2)[0])[0, 0] == 2
    assert cached("kind", "key", counted(3)[0])[0, 0] == 2


def test_a_failure_keeps_nothing():
    def compute():
        raise MemoryError("too large")

    with pytest.raises(MemoryError):
        cached("kind", "key", compute)
    assert not cached_path("kind", "key").parent.exists() or not list(cached_path("kind", "key").parent.iterdir())


def test_names_of_networks_stay_inside_the_store():
    path = cached_path("../../net.py:Class@/else", "key")
    assert path.parent.parent.name == "features"
    assert path.parent.name == ".._.._net.py_Class__else"
