"""Training is reproducible and takes the requested steps; accuracy is counted correctly."""

import copy
import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from course_lib.measuring.quality import STUDENT_T, interval, mean_interval
from course_lib.networks.data import Images, augment, fashion_mnist
from course_lib.networks.models import load_trained, small_resnet
from course_lib.networks.training import (
    SGD,
    AdamW,
    Constant,
    OneCycle,
    Rewound,
    Watch,
    accuracy,
    fit,
    recalibrate,
    to_labels,
    to_teacher,
)
from course_lib.pruning import masks
from course_lib.teaching.exercises import EXERCISES

#: An optimizer for a few examples.
OPTIMIZER = SGD(0.1, batch_size=16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int) -> Images:
    pictures = torch.randn(n, 1, 28, 28, generator=generator())
    return Images(pictures, torch.arange(n) % 10)


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


# --- augmentation -------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_bright_pixel_is_mirrored_and_moves_by_at_most_the_padding(pad):
    row, column, width = 5, 8, 20
    images = torch.full((2_000, 1, 12, width), -0.8)
    images[:, :, row, column] = 3.0
    result = augment(images, generator(), pad)
    assert result.shape == images.shape and result.dtype == images.dtype
    bright = (result == 3.0).nonzero()
    assert bright[:, 0].tolist() == list(range(2_000))  # one in each image,
    assert (result == -0.8).sum() == result.numel() - 2_000  # and nothing else but background
    moves = range(-pad, pad + 1)
    columns = (column, width - 1 - column)
    expected = {(row + dy, x + dx) for x, dy, dx in product(columns, moves, moves)}
    assert set(map(tuple, bright[:, 2:].tolist())) == expected


def test_augmentation_of_a_whole_picture_is_a_mirrored_or_shifted_copy():
    picture = torch.rand(3, 6, 5, generator=generator())
    padded = nn.functional.pad(picture, (1,) * 4, value=picture.min().item())
    shifted = [padded[:, y : y + 6, x : x + 5] for y, x in product(range(3), repeat=2)]
    mirrored = [padded.flip(2)[:, y : y + 6, x : x + 5] for y, x in product(range(3), repeat=2)]
    results = augment(picture.expand(500, -1, -1, -1), generator(), pad=1)
    counts = [(results == copy).flatten(1).all(1).sum().item() for copy in shifted + mirrored]
    assert sum(counts) == 500 and min(counts) > 0
    assert 200 < sum(counts[:9]) < 300  # mirrors half


def test_augmentation_leaves_its_input_alone():
    images = random_images(16).images
    before = images.clone()
    augment(images, generator())
    assert torch.equal(images, before)


# --- batches ------------------------------------------------------------------------------------


def test_a_pass_shows_full_batches_of_different_pictures():
    pictures = Images(torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10))
    seen = list(pictures.batches(4, generator(), augmented=False))
    assert [len(labels) for _, labels in seen] == [4, 4]
    assert len({label.item() for _, labels in seen for label in labels}) == 8
    for images, labels in seen:
        assert torch.equal(images.flatten(), labels.float())  # each picture keeps its label


# --- fit ----------------------------------------------------------------------------------------


def trained(model: nn.Module, seed: int) -> torch.Tensor:
    fit(model, random_images(64), epochs=2, seed=seed, optimizer=SGD(0.1, batch_size=16))
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def same_network() -> nn.Module:
    torch.manual_seed(1)
    return small_resnet()


def test_same_seed_gives_the_same_weights_bit_for_bit():
    first = trained(same_network(), seed=3)
    torch.manual_seed(99)  # the state of the global generator does not matter
    assert torch.equal(first, trained(same_network(), seed=3))


def test_another_seed_gives_other_weights():
    assert not torch.equal(trained(same_network(), seed=3), trained(same_network(), seed=4))


def test_training_leaves_the_global_generator_alone():
    model = linear()
    before = torch.get_rng_state()
    trained(model, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("epochs", "steps"), [(0.25, 2), (1, 8), (1.5, 12)])
def test_epochs_and_their_fractions_make_that_many_steps(epochs, steps):
    counted = []

    def progress(iterable):
        for step in iterable:
            counted.append(step)
            yield step

    data = random_images(8 * 16 + 5)
    fit(linear(), data, epochs=epochs, seed=0, optimizer=OPTIMIZER, watch=Watch(progress))
    assert counted == list(range(1, steps + 1))


SCHEDULES = {
    "one-cycle": lambda *_: OneCycle(),
    "constant": lambda *_: Constant(),
    "rewound": lambda of_steps, follow: Rewound(of_steps / 4, follow / 4),
}


def learning_rates(schedule: str, steps: int, of_steps: int = 0, follow: int = 0) -> list[float]:
    """The rate of each step of a training run with lr=0.5; an epoch has 4 steps."""
    seen = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
    )
    options = {
        "optimizer": SGD(0.5, batch_size=4),
        "schedule": SCHEDULES[schedule](of_steps, follow),
    }
    try:
        fit(linear(), random_images(16), epochs=steps / 4, seed=0, **options)
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("steps", [1, 40])
def test_constant_schedule_keeps_the_learning_rate(steps):
    assert learning_rates("constant", steps) == [0.5] * steps


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_nearly_zero():
    rates = learning_rates("one-cycle", 40)
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.5) and peak == 9  # after a quarter of the steps
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.5e-3


@pytest.mark.parametrize("steps", range(1, 10))
def test_one_cycle_works_for_any_number_of_steps(steps):
    rates = learning_rates("one-cycle", steps)
    assert len(rates) == steps and all(0 < rate <= 0.5 for rate in rates)


@pytest.mark.parametrize("of_steps", [1, 4, 7, 40])
def test_rewound_rates_are_the_last_of_the_one_cycle(of_steps):
    whole = learning_rates("one-cycle", of_steps)
    for steps in range(1, of_steps + 1):
        assert learning_rates("rewound", steps, of_steps) == whole[-steps:]


def test_rewound_trainings_can_share_the_end_of_the_one_cycle():
    whole = learning_rates("one-cycle", 40)
    first = learning_rates("rewound", 5, of_steps=40, follow=7)
    assert first + learning_rates("rewound", 7, of_steps=40) == whole[-12:]


def test_rewinding_by_the_whole_budget_is_the_original_training_bit_for_bit():
    def weights(**options) -> torch.Tensor:
        model = fit(same_network(), random_images(64), seed=0, optimizer=OPTIMIZER, **options)
        return model.head.weight

    assert torch.equal(weights(epochs=2), weights(epochs=2, schedule=Rewound(2)))


@pytest.mark.parametrize(("steps", "of_steps", "follow"), [(5, 4, 0), (5, 0, 0), (5, 8, 4)])
def test_a_rewound_training_longer_than_the_original_is_refused(steps, of_steps, follow):
    message = f"{steps} steps with {follow} to follow are more than the one-cycle of {of_steps}"
    with pytest.raises(ValueError, match=message):
        learning_rates("rewound", steps, of_steps, follow)


@pytest.mark.slow
def test_a_mark_sees_the_weights_of_a_training_that_ends_there():
    seen, marks = [], (0.25, 1, 1.6)

    def note(mark: float, _: float) -> None:
        accuracy(model, random_images(64))  # a measurement in between must not change the training
        seen.append((mark, copy.deepcopy(model.state_dict())))

    options = {"seed": 0, "optimizer": SGD(0.1, batch_size=8), "schedule": Constant()}
    model = same_network()
    fit(model, random_images(64), epochs=2, watch=Watch(after_epoch=note, marks=marks), **options)
    assert [mark for mark, _ in seen] == [*marks]
    for mark, weights in seen:
        alone = fit(same_network(), random_images(64), epochs=mark, **options).state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in alone.items())
    assert not torch.equal(seen[-1][1]["head.weight"], model.head.weight)  # it went on


@pytest.mark.parametrize("marks", [[0], [-1], [2.25], [1, 1], [1, 1.01]], ids=str)
def test_marks_that_are_no_different_steps_of_the_training_are_refused(marks):
    data, noted = random_images(64), []
    with pytest.raises(ValueError, match="Marks must be different steps of the training"):
        fit(
            linear(),
            data,
            epochs=2,
            seed=0,
            optimizer=OPTIMIZER,
            watch=Watch(after_epoch=lambda *report: noted.append(report), marks=marks),
        )
    assert not noted


@pytest.mark.parametrize(
    ("marks", "expected"), [(None, [1, 2]), ([0.5, 2.5], [0.5, 2.5]), ([], [])], ids=str
)
def test_after_each_full_pass_or_mark_the_mean_loss_is_reported(marks, expected):
    class Undecided(nn.Module):
        """Gives every class the same logit, so that every loss is log(10)."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.scale.expand(len(x), 10)

    reports = []
    fit(
        Undecided(),
        random_images(64),
        epochs=2.5,
        seed=0,
        optimizer=OPTIMIZER,
        watch=Watch(after_epoch=lambda *report: reports.append(report), marks=marks),
    )
    assert reports == [(mark, pytest.approx(math.log(10))) for mark in expected]


def test_network_trains_in_training_mode_and_returns_in_eval_mode():
    model, modes = linear().eval(), []
    model.register_forward_hook(lambda layer, *_: modes.append(layer.training))
    options = {"epochs": 2, "seed": 0, "optimizer": OPTIMIZER}
    watch = Watch(after_epoch=lambda *_: model.eval())
    result = fit(model, random_images(64), watch=watch, **options)
    assert modes == [True] * 8
    assert result is model and not model.training


@pytest.mark.parametrize(("pictures", "epochs"), [(15, 1), (64, 0.1), (64, 0), (64, -1)], ids=str)
def test_too_little_for_one_step_is_refused(pictures, epochs):
    with pytest.raises(ValueError, match=rf"{epochs} epochs of {pictures} examples.*no training"):
        fit(linear(), random_images(pictures), epochs=epochs, seed=0, optimizer=OPTIMIZER)


def test_unknown_schedule_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"Constant\(\) or Rewound\(of_epochs=...\); got 'cosine'"):
        fit(linear(), random_images(128), epochs=1, seed=0, optimizer=SGD(0.1), schedule="cosine")


def test_unknown_optimizer_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"SGD\(lr=...\) or AdamW\(lr=...\); got 'adam'"):
        fit(linear(), random_images(128), epochs=1, seed=0, optimizer="adam")


def test_adamw_takes_the_step_of_its_formula():
    model = nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    inputs, labels = torch.randn(4, 3, generator=generator()), torch.tensor([0, 1, 1, 0])
    data = SimpleNamespace(labels=labels, batches=lambda *_: iter([(inputs, labels)]))
    to_labels(model(inputs), inputs, labels).backward()
    direction = model.weight.grad.sign()
    optimizer = AdamW(0.01, weight_decay=0.5, batch_size=4)
    fit(model, data, epochs=1, seed=0, optimizer=optimizer, schedule=Constant())
    # the first step of Adam is the sign of the gradient; the decay is added separately
    torch.testing.assert_close(model.weight, before * (1 - 0.01 * 0.5) - 0.01 * direction)


@pytest.mark.slow
def test_a_few_passes_over_1000_pictures_teach_a_fresh_network():
    parts = fashion_mnist()
    few = Images(parts.train.images[:1_000], parts.train.labels[:1_000])
    model = fit(same_network(), few, epochs=3, seed=0, optimizer=SGD(0.1, batch_size=64))
    validation = Images(parts.validation.images[:1_000], parts.validation.labels[:1_000])
    assert accuracy(model, validation) > 40


# --- distillation -------------------------------------------------------------------------------


def test_distillation_by_hand():
    logits, goal = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, 4.0]])
    found = to_teacher(nn.Identity(), temperature=2, share=0.75)(logits, goal, torch.tensor([2]))
    p, q = (goal / 2).softmax(1), (logits / 2).softmax(1)
    apart = (p * (p / q).log()).sum()
    expected = 0.75 * 4 * apart - 0.25 * logits.softmax(1)[0, 2].log()
    assert float(found) == pytest.approx(float(expected))


def test_a_network_is_no_way_from_itself():
    network, images = linear(), random_images(6).images
    whole = to_teacher(network, share=1)
    with torch.no_grad():
        apart = whole(network(images), images, torch.zeros(6).long())
    assert float(apart) == pytest.approx(0, abs=1e-6)


def test_no_share_for_the_teacher_is_training_with_labels():
    images, labels = random_images(20)
    with torch.no_grad():
        logits = linear()(images)
    without = to_teacher(linear(1), share=0)(logits, images, labels)
    assert float(without) == pytest.approx(float(to_labels(logits, images, labels)))


def test_a_student_comes_to_agree_with_its_teacher_whatever_the_labels_say():
    data, teacher, student = random_images(256), linear(1), linear(0)
    answers = teacher(data.images).argmax(1)
    before = (student(data.images).argmax(1) == answers).float().mean()
    objective = to_teacher(teacher, share=1)
    weights = copy.deepcopy(teacher.state_dict())
    optimizer = SGD(0.02, batch_size=64)
    fit(student, data, epochs=60, seed=0, optimizer=optimizer, objective=objective)
    after = (student(data.images).argmax(1) == answers).float().mean()
    assert before < 0.3 and after > 0.7
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(("temperature", "share"), [(0, 0.5), (-1, 0.5), (1, -0.1), (1, 1.1)])
def test_an_impossible_distillation_is_refused(temperature, share):
    with pytest.raises(ValueError, match=f"got {temperature}, {share}"):
        to_teacher(linear(), temperature, share)


# --- accuracy -----------------------------------------------------------------------------------


class PicturesAreLogits(nn.Module):
    """Predicts the brightest of ten pixels; would predict the darkest in training mode."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x.flatten(1) * (-self.scale if self.training else self.scale)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 500])
def test_accuracy_agrees_with_a_hand_count(batch_size):
    predictions = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 0, 0])  # the last three are wrong
    pictures = nn.functional.one_hot(predictions, 10).float().view(10, 1, 1, 10)
    model = PicturesAreLogits().train()
    assert accuracy(model, Images(pictures, labels), batch_size) == 70.0
    assert not model.training


def test_interval_agrees_with_a_published_value():
    # 8 of 10: 49.0 to 94.3 %, as in Brown, Cai and DasGupta (2001), or statsmodels' "wilson".
    assert interval(80, 10) == pytest.approx((49.0, 94.3), abs=0.05)


def test_interval_of_10000_pictures_at_92_percent_is_half_a_point_wide_each_way():
    low, high = interval(92, 10_000)
    assert (92 - low, high - 92) == pytest.approx((0.5, 0.5), abs=0.05)


@given(n=st.integers(1, 100_000), share=st.floats(0, 1))
def test_interval_ends_where_the_accuracy_would_just_be_plausible(n, share):
    low, high = interval(100 * share, n)
    assert 0 <= low <= high <= 100
    assert low - 1e-9 <= 100 * share <= high + 1e-9
    for end in (low / 100, high / 100):  # an end is 1.96 of its own standard deviations away
        assert n * (share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end), abs=1e-6)


@pytest.mark.parametrize("count", STUDENT_T)
def test_the_table_holds_95_percent_of_students_distribution(count):
    # the same share from the density itself, by the rule of trapezoids
    inside = torch.linspace(-STUDENT_T[count], STUDENT_T[count], 100_001, dtype=torch.float64)
    density = torch.distributions.StudentT(torch.tensor(count - 1.0)).log_prob(inside).exp()
    assert float(torch.trapezoid(density, inside)) == pytest.approx(0.95, abs=1e-4)


def test_the_interval_of_a_few_values_holds_their_mean_95_times_in_100():
    drawn = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) + 7
    found = [mean_interval(values) for values in drawn.tolist()]
    inside = sum(low <= 7 <= high for _, low, high in found)
    assert inside / len(found) == pytest.approx(0.95, abs=0.01)


def test_the_learner_builds_the_interval_of_a_few_values():
    for values, t in EXERCISES["10.4"].cases():
        if len(values) > 1:
            expected = EXERCISES["10.4"].reference(values, t)
            assert mean_interval(values) == pytest.approx(expected, rel=1e-3, abs=2e-3)


@pytest.mark.parametrize("count", [0, 1, 17])
def test_an_interval_of_one_value_or_of_many_is_refused(count):
    with pytest.raises(ValueError, match=f"2 to 16 values; got {count}"):
        mean_interval([1.0] * count)


def test_the_learner_builds_the_interval_of_a_share():
    for right, asked in EXERCISES["13.5"].cases():
        expected = EXERCISES["13.5"].reference(right, asked)
        assert interval(100 * right / asked, asked) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("channels", "stride", "used"), [(4, 2, False), (4, 1, True), (8, 2, True)]
)
@pytest.mark.filterwarnings("error")
def test_onednn_is_not_trusted_with_a_strided_convolution_of_few_channels(channels, stride, used):
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.mkldnn.enabled)
            return x.mean((2, 3))

    convolution = nn.Conv2d(channels, 10, 1, stride=stride)
    model = nn.Sequential(nn.Conv2d(1, channels, 3), convolution, Watched())
    pictures = Images(torch.randn(16, 1, 8, 8), torch.arange(16) % 10)
    fit(model, pictures, epochs=1, seed=0, optimizer=SGD(0.1, batch_size=8))
    assert seen == [used] * 2 and torch.backends.mkldnn.enabled


# --- the statistics of BatchNorm ----------------------------------------------------------------


def normed() -> nn.Sequential:
    """Two BatchNorm layers with statistics of their own, drop-out between them."""
    layers = [nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=0.3)]
    model = nn.Sequential(*layers)
    model[0].running_mean.fill_(7.0)
    return model.train()


def test_statistics_are_the_averages_over_the_batches():
    inputs = 5 + 3 * torch.randn(11, 3, generator=generator())
    model = normed()
    weights = [weight.clone() for weight in model.parameters()]
    assert recalibrate(model, inputs, batch_size=4) is model and not model.training
    batches = inputs[:6], inputs[6:]  # none is smaller than 4
    torch.testing.assert_close(
        model[0].running_mean, torch.stack([batch.mean(0) for batch in batches]).mean(0)
    )
    torch.testing.assert_close(
        model[0].running_var, torch.stack([batch.var(0) for batch in batches]).mean(0)
    )
    assert all(map(torch.equal, weights, model.parameters()))
    assert model[3].momentum == 0.3 and not any(layer.training for layer in model.modules())


def test_the_learner_builds_the_statistics_of_a_layer():
    batches = [5 + 3 * torch.randn(4, 3, 2, 2, generator=generator(seed)) for seed in (0, 1)]
    layer = recalibrate(nn.Sequential(nn.BatchNorm2d(3)), torch.cat(batches), batch_size=4)[0]
    mean, variance = EXERCISES["01.3"].reference(batches)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance)


def test_drop_out_does_not_disturb_the_statistics():
    inputs, model = torch.randn(64, 3, generator=generator()), normed()
    with_drop_out = recalibrate(model, inputs)[3].running_var.clone()
    model[1].p = 0.0
    assert torch.equal(recalibrate(model, inputs)[3].running_var, with_drop_out)


class Fails(nn.Module):
    """Passes its input on, but for the second time."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("no more")
        return x


def test_a_network_that_fails_keeps_its_statistics():
    model = nn.Sequential(normed(), Fails())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="no more"):
        recalibrate(model, torch.randn(8, 3), batch_size=4)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model[0][3].momentum == 0.3 and not model[0][0].training


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 3)]
)
def test_without_running_statistics_nothing_changes(layer):
    model = nn.Sequential(layer)
    before = copy.deepcopy(model.state_dict())
    recalibrate(model, torch.randn(8, 3))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("inputs", "size"), [(0, 4), (1, 4), (8, 1), (8, 0)])
def test_a_variance_needs_two_inputs(inputs, size):
    with pytest.raises(ValueError, match="at least 2 inputs"):
        recalibrate(normed(), torch.randn(inputs, 3), batch_size=size)


@pytest.mark.slow
def test_much_of_what_pruning_seems_to_cost_is_stale_statistics():
    data, model = fashion_mnist(), load_trained("small_resnet")
    pictures = Images(data.validation.images[:1000], data.validation.labels[:1000])
    pruned = masks.pruned_copy(model, masks.global_masks(model, 0.9))
    stale = accuracy(pruned, pictures)
    anew = accuracy(recalibrate(pruned, data.train.images[:1024]), pictures)
    assert stale < 50 and anew > 75
    unpruned = accuracy(model, pictures)
    assert abs(accuracy(recalibrate(model, data.train.images[:1024]), pictures) - unpruned) < 1.5
