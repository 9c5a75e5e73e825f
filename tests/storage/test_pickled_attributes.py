"""Attributes of pickled objects, read without executing anything; torch's own unpickling is the reference."""

import enum
import pickle
import zipfile
from dataclasses import dataclass, field

import pytest
import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from hf_critmom.experiments.doctor.settings import ARGUMENTS
from hf_critmom.storage.errors import CheckpointError
from hf_critmom.storage.pickled_attributes import MAX_PICKLE_BYTES, read_attributes


class Kind(enum.Enum):
    SGD = "sgd"


@dataclass
class Record:
    number: float = 0.5
    count: int = 3
    large: int = 2**40
    negative: int = -(2**70)
    name: str = "a"
    again: str = "a"  # the same object, which the pickle refers back to
    on: bool = True
    nothing: None = None
    kind: Kind = Kind.SGD
    items: list = field(default_factory=lambda: [1, (2, 3), {"x": {1, 2}}])
    token: str = "secret"


PLAIN = ("number", "count", "large", "negative", "name", "again", "on", "nothing")


def stored(tmp_path, value, **options):
    torch.save(value, tmp_path / "file.bin", **options)
    return tmp_path / "file.bin"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_attributes_are_those_that_unpickling_would_give(tmp_path, protocol):
    record = Record()
    found = read_attributes(stored(tmp_path, record, pickle_protocol=protocol), [*PLAIN, "kind", "items"], [Kind])
    assert found == {**{name: getattr(record, name) for name in PLAIN}, "kind": "sgd"}


class ByName(enum.Enum):
    """Members are pickled by their names, as Python 3.11.0 to 3.11.3 pickle those of every enum."""

    FAST = "fast one"

    def __reduce_ex__(self, protocol):
        return getattr, (type(self), self.name)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_member_that_is_stored_by_its_name_has_its_value(tmp_path, protocol):
    record = Record(kind=ByName.FAST)
    file = stored(tmp_path, record, pickle_protocol=protocol)
    assert torch.load(file, weights_only=False).kind is ByName.FAST
    assert read_attributes(file, ["kind", "count"], [Kind, ByName]) == {"kind": "fast one", "count": 3}
    assert read_attributes(file, ["kind", "count"], [Kind]) == {"count": 3}


def test_attributes_that_are_not_requested_are_not_returned(tmp_path):
    assert "token" not in read_attributes(stored(tmp_path, Record()), PLAIN)


def test_training_arguments_are_read_as_they_were_saved(tmp_path):
    args = TrainingArguments(str(tmp_path), optim="sgd", learning_rate=0.3, max_grad_norm=0.7, use_cpu=True)
    found = read_attributes(stored(tmp_path, args), ARGUMENTS, [OptimizerNames])
    assert set(found) == set(ARGUMENTS)
    assert all(found[name] == getattr(args, name) for name in ARGUMENTS)


@pytest.mark.parametrize("value", [3.0, [1, 2], {"x": 1}, "text"])
def test_files_without_an_object_are_refused(tmp_path, value):
    with pytest.raises(CheckpointError, match="does not hold an object with attributes"):
        read_attributes(stored(tmp_path, value), PLAIN)


@pytest.mark.parametrize(
    "pickled", [b"", b".", b"garbage", b"\x80\x02]h\x05.", b"\x80\x02t.", b"\x80\x02" + b"x" * MAX_PICKLE_BYTES]
)
def test_damaged_files_are_one_sentence(tmp_path, pickled):
    file = tmp_path / "file.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("file/data.pkl", pickled)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_attributes(file, PLAIN)
    file.write_bytes(pickled)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_attributes(file, PLAIN)
