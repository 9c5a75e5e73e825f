"""Claims about the measurement of doubtful labels: labels are flipped as stated, and most flips are found."""

import numpy as np
import pytest
from helpers.script_modules import load_script

from hf_critmom.tasks import DataArguments, load_task


def test_a_flipped_label_is_another_class_and_the_rest_stay() -> None:
    script, task = load_script("check_doubtful_labels"), load_task(DataArguments())
    before = {name: split.labels.copy() for name, split in task.splits.items()}
    masks = script.flip_labels(task, 0.05, seed=0)
    for name, split in task.splits.items():
        assert np.array_equal(split.labels != before[name], masks[name])
        assert 0.01 < masks[name].mean() < 0.1
        assert split.labels.min() >= 0 and split.labels.max() < len(task.label_names)


@pytest.mark.slow
def test_most_flipped_labels_of_the_digits_are_found_and_few_others() -> None:
    pytest.importorskip("cleanlab")
    script = load_script("check_doubtful_labels")
    flags = script.LabelArguments(num_seeds=1, use_cpu=True)
    precision, recall, *_ = script.measure(load_task(DataArguments()), flags, seed=1)
    assert precision > 0.8 and recall > 0.8
