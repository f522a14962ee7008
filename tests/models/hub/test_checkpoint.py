import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ilo_jax.models.hub import checkpoint
from ilo_jax.models.hub.checkpoint import (
    INDEX,
    Mapped,
    choice,
    split_by_size,
    tensor_files,
    weight_files,
    write_tensors,
)

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(4, np.float32),
    "c": np.zeros((5, 1), np.float32),
}
SIZES = {name: tensor.nbytes for name, tensor in TENSORS.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one file of tensors."""
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def unnamed(folder: Path) -> Path:
    """Return a folder with one file of tensors of a name that only an index can give."""
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    return folder


def write(folder: Path, *, most: int = 1000, write: bool = True, tensors=TENSORS) -> list[str]:
    """Write, and return the names of the tensors in the order they were asked for."""
    asked = []

    def tensor(name: str) -> np.ndarray:
        asked.append(name)
        return tensors[name]

    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    write_tensors(folder if write else None, sizes, tensor, most=most)
    return asked


def refused(folder: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tensor_files(folder)


# Reading


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_mapped_tensors_are_those_of_the_library(tmp_path, dtype):
    rng = np.random.default_rng(0)
    written = {name: rng.normal(size=a.shape).astype(dtype) for name, a in TENSORS.items()}
    file = tmp_path / "model.safetensors"
    save_file(written | {"odd": np.ones(3, np.int8)}, file, metadata={"format": "pt"})
    mapped = Mapped(file)
    for name, expected in load_file(file).items():
        if name != "odd":
            found = mapped.tensor(name)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
            assert not found.flags.writeable


def test_mapped_tensor_that_is_no_weight_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"odd": np.ones(3, np.int8)}, file)
    message = f"odd in {file} must be one of F64, F32, F16, BF16, got I8"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Mapped(file).tensor("odd")


def test_single_file(folder):
    assert weight_files(folder) == [folder / "model.safetensors"]
    assert tensor_files(folder) == dict.fromkeys("abc", folder / "model.safetensors")


def test_several_files_need_no_index(folder):
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    save_file({"d": TENSORS["a"]}, folder / "more.safetensors")
    assert weight_files(folder) == [folder / "first.safetensors", folder / "more.safetensors"]
    assert tensor_files(folder)["d"] == folder / "more.safetensors"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "adapter_model.safetensors",
            "reading model.safetensors, not adapter_model.safetensors beside it",
        ),
        ("consolidated.safetensors", None),
        ("model.fp16.safetensors", None),
        ("pytorch_model.bin", None),
    ],
)
def test_model_safetensors_is_all_that_is_read_beside_others(folder, name, said):
    save_file({"a": TENSORS["b"]}, folder / name)
    assert weight_files(folder) == [folder / "model.safetensors"]
    assert choice(folder) == said


def test_index_decides_which_files_are_read(unnamed):
    save_file({"d": TENSORS["a"]}, unnamed / "more.safetensors")
    (unnamed / INDEX).write_text(json.dumps({"weight_map": {"d": "more.safetensors"}}))
    assert tensor_files(unnamed) == {"d": unnamed / "more.safetensors"}
    assert choice(unnamed) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}']
)
def test_damaged_index_is_refused(unnamed, text):
    (unnamed / INDEX).write_text(text)
    message = f"^{re.escape(str(unnamed / INDEX))} is damaged, it must map tensors to files: "
    with pytest.raises(ValueError, match=message):
        weight_files(unnamed)


@pytest.mark.parametrize("outside", ["sub/model.safetensors", "../model.safetensors", "/m"])
def test_index_that_leads_elsewhere_is_refused(unnamed, outside):
    """Weights that the fingerprint does not cover are not read."""
    (unnamed / INDEX).write_text(json.dumps({"weight_map": {"a": outside}}))
    message = f"{unnamed / INDEX} must name files beside it, got {unnamed / outside}"
    refused(unnamed, ValueError, message)


def test_index_that_names_absent_files_is_refused(unnamed):
    names = {"a": "first.safetensors", "b": "z.safetensors", "c": "y.safetensors"}
    (unnamed / INDEX).write_text(json.dumps({"weight_map": names}))
    message = f"{unnamed / INDEX} names files that are not there: y.safetensors, z.safetensors"
    refused(unnamed, FileNotFoundError, message)


def test_single_file_outranks_an_index_as_in_transformers(folder):
    save_file({"d": TENSORS["a"]}, folder / "more.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"d": "more.safetensors"}}))
    assert tensor_files(folder) == dict.fromkeys("abc", folder / "model.safetensors")
    assert choice(folder) == f"reading model.safetensors, not {INDEX} beside it"


def test_what_lies_beside_an_index_is_not_taken_for_weights(unnamed):
    save_file({"d": TENSORS["a"]}, unnamed / "adapter_model.safetensors")
    assert weight_files(unnamed) == [unnamed / "first.safetensors"]
    assert choice(unnamed) == "reading first.safetensors, as there is no model.safetensors"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_checkpoint_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    message = (
        f"no *.safetensors in {tmp_path}; {name} may run code when opened and is not read: convert "
        "it with transformers' AutoModel.from_pretrained(...).save_pretrained(...)"
    )
    refused(tmp_path, FileNotFoundError, message)


def test_folder_without_weights_is_refused(tmp_path):
    refused(tmp_path, FileNotFoundError, f"no *.safetensors in {tmp_path}")


def test_index_that_names_nothing_is_refused(unnamed):
    (unnamed / INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(FileNotFoundError, match=r"^no \*\.safetensors in "):
        weight_files(unnamed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: b"",
        lambda content: b"<!doctype html><html>not found</html>",
    ],
    ids=["last byte", "half", "header", "empty", "web page"],
)
def test_damaged_file_is_refused(folder, damage):
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    message = f"^{re.escape(str(file))} is truncated or not safetensors: "
    with pytest.raises(ValueError, match=message):
        tensor_files(folder)


@pytest.mark.parametrize("name", ["first.safetensors", INDEX])
def test_git_lfs_pointer_is_refused(unnamed, name):
    (unnamed / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    message = (
        f"{unnamed / name} is a git-lfs pointer, not the file itself: run git lfs pull in {unnamed}"
    )
    refused(unnamed, ValueError, message)


def test_file_without_tensors_is_refused(folder):
    save_file({}, folder / "model.safetensors")
    refused(folder, ValueError, f"no tensors in {folder}: its safetensors files are empty")


def test_tensors_in_two_files_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, folder / "more.safetensors")
    message = (
        f"{folder / 'more.safetensors'} and {folder / 'first.safetensors'} both hold b, c: keep one"
    )
    refused(folder, ValueError, message)


def test_sample_tells_other_weights_and_other_names(tmp_path):
    def sample(tensors: dict[str, np.ndarray]) -> bytes:
        save_file(tensors, tmp_path / "model.safetensors")
        return Mapped(tmp_path / "model.safetensors").sample()

    large = {"a": np.zeros(1000, np.float32), "b": np.ones(3, np.float32)}
    changed = [np.zeros(1000, np.float32) for _ in range(2)]
    changed[0][0] = changed[1][-1] = 1
    renamed = {"a": large["a"], "c": large["b"]}
    others = [large | {"a": changed[0]}, large | {"a": changed[1]}, renamed]
    assert len({sample(tensors) for tensors in [large, *others]}) == 4
    assert sample(large) == sample(dict(large))


# Writing


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], [[]]),
        ([4, 4, 2], [[0, 1, 2]]),
        ([4, 4, 3], [[0, 1], [2]]),
        ([10, 1, 10], [[0], [1], [2]]),
        ([11, 1, 1], [[0], [1, 2]]),
        ([1, 99, 1], [[0], [1], [2]]),
    ],
)
def test_files_are_filled_in_order_up_to_ten_bytes(sizes, groups):
    named = {str(i): size for i, size in enumerate(sizes)}
    assert split_by_size(named, most=10) == [[str(i) for i in group] for group in groups]


def test_small_checkpoint_is_one_file(tmp_path):
    assert write(tmp_path) == ["a", "b", "c"]
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    written = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(written[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_large_checkpoint_is_several_files_with_an_index(tmp_path):
    assert write(tmp_path, most=30) == ["a", "b", "c"]
    files = [tmp_path / f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert weight_files(tmp_path) == files
    assert tensor_files(tmp_path) == dict(zip("abc", files, strict=True))
    for name, file in zip("abc", files, strict=True):
        assert np.array_equal(load_file(file)[name], TENSORS[name])
    index = json.loads((tmp_path / INDEX).read_text())
    assert index == {
        "metadata": {"total_size": sum(SIZES.values())},
        "weight_map": {name: file.name for name, file in zip("abc", files, strict=True)},
    }


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775])
@pytest.mark.parametrize("most", [30, 1000])
def test_whoever_may_read_the_folder_may_read_the_files(tmp_path, mode, most):
    tmp_path.chmod(mode)
    write(tmp_path, most=most)
    modes = {file.stat().st_mode & 0o777 for file in weight_files(tmp_path)}
    assert modes == {mode & 0o666}


@pytest.mark.parametrize("most", [30, 1000])
def test_other_processes_gather_and_write_nothing(tmp_path, most):
    assert write(tmp_path, most=most, write=False) == ["a", "b", "c"]
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_is_written_exactly(tmp_path):
    tensors = {"a": np.arange(256).astype(ml_dtypes.bfloat16)}
    write(tmp_path, tensors=tensors)
    written = load_file(tmp_path / "model.safetensors")["a"]
    assert written.dtype == ml_dtypes.bfloat16
    assert np.array_equal(written, tensors["a"])


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    """The error of safetensors is no OSError, though the disk is full."""

    def full(*_, **__):
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    file = tmp_path / "model.safetensors"
    message = f"cannot write {file}: No space left on device (os error 28)"
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        write(tmp_path)
