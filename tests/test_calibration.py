"""Whatever is passed as calibration data becomes batches, or is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib.pruning.calibration import batched, batches, labelled

X, Y = torch.randn(6, 4), torch.arange(6)
TOKENS = {"input_ids": torch.ones(6, 3, dtype=torch.long)}

GIVEN = {
    "list of tensors": [X[:3], X[3:]],
    "one tensor": X,
    "pairs": [(X[:3], Y[:3]), (X[3:], Y[3:])],
    "DataLoader of pairs": DataLoader(TensorDataset(X, Y), batch_size=3),
    "DataLoader of tensors": DataLoader(TensorDataset(X), batch_size=3),
    "DataLoader of rows": DataLoader(X, batch_size=3),
    "generator": (part for part in X.split(3)),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_inputs_come_out(kind):
    assert torch.equal(torch.cat([*batches(GIVEN[kind])]), X)


@pytest.mark.parametrize("label", ["label", "labels"])
def test_labels_of_a_dictionary_are_no_inputs(label):
    for given in (TOKENS | {label: Y}, [TOKENS | {label: Y}], [(TOKENS, Y)]):
        (found,) = batches(given)
        assert found.keys() == TOKENS.keys()


@pytest.mark.parametrize(
    "given", [[(X, Y)], [TOKENS | {"labels": Y}], DataLoader(TensorDataset(X, Y), batch_size=6)]
)
def test_labels_come_with_the_inputs(given):
    ((_, labels),) = labelled(given)
    assert torch.equal(labels, Y)


REFUSED = {
    "nothing": ([], "at least one batch; got none"),
    "an empty loader": (DataLoader(TensorDataset(X[:0])), "at least one batch"),
    "a generator gone through": (iter([]), "can be read only once"),
    "an empty batch": ([X, X[:0]], r"Batch 1 is empty: its shape is \(0, 4\)"),
    "NaN": ([X * torch.nan], "Batch 0 holds NaN"),
    "infinity in a dictionary": ([{"x": X / 0}], "Batch 0, x holds NaN or infinite"),
    "an array": ([np.zeros((2, 3))], "Batch 0 is ndarray; give tensors"),
    "text in a dictionary": ([{"text": ["a"]}], "Batch 0, text is list"),
    "text": ("pictures", "got str"),
    "a number": (3, "got int"),
    "three parts": ([(X, X, Y)], "Batch 0 has 3 parts"),
    "inputs and labels that are no pairs": ([X, Y], r"Batch 1 has the shape \(6,\)"),
    "nothing in a batch": ([()], "Batch 0 has 0 parts"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data_is_refused(kind):
    given, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        list(batches(given))


@pytest.mark.parametrize("given", [[X], [(X, Y[:3])], [TOKENS]])
def test_labels_that_do_not_fit_are_refused(given):
    with pytest.raises(ValueError, match="Batch 0 has"):
        list(labelled(given))


@pytest.mark.parametrize("layer, x", [(nn.Linear(4, 2), X[0]), (nn.Conv2d(3, 2, 1), X[None])])
def test_the_dimension_of_the_batch_is_missed(layer, x):
    with pytest.raises(ValueError, match=r"comes to head: the batch dimension is missing"):
        batched("head", layer, x)
    assert batched("head", layer, x[None]) is not x
