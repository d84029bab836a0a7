"""The fields of each experiment's recording, as types.

mypy checks the code that reads them, and :func:`.recordings.check` checks every file that is read.
"""

from typing import NotRequired, TypedDict

from course_lib.deployment.forms import Packing
from course_lib.deployment.generation import Times
from course_lib.measuring.quality import Evaluation, Percentage, PercentageInterval, Size
from course_lib.measuring.timing import Range, Recorded

# --- what several have in common ----------------------------------------------------------------


class Header(TypedDict):
    """How every recording begins. With ``machines``, it was resumed on other ones."""

    schema: int
    experiment: str
    command: str
    machine: dict
    machines: NotRequired[list[dict]]
    started: str
    written: str


class OfNetwork(Header):
    """The recording of an experiment on a trained network, with the checksum of its weights."""

    model: str
    weights: str


class Recipe(TypedDict):
    """The recipe that a training repeats a fraction of."""

    epochs: float
    lr: float


#: The time of an ONNX file with each number of threads.
Threads = TypedDict("Threads", {"one thread": Recorded, "two threads": Recorded})


class DeployedPoint(Threads, Evaluation, Size):
    """A network in the runtime; ``form`` is "float32", "int8" or "packed"."""

    network: str
    form: str
    bytes: int


class PackedNetwork(Packing):
    """The packed file of a network."""

    network: str


class SmallerNetwork(TypedDict):
    """A network made from the network ``source``, and how; fields that do not apply are 0."""

    name: str
    source: str
    weights: float
    codebook_size: int
    epoch_fraction: float


class Ceiling(TypedDict):
    """The roofline of a machine: bytes per second and MACs per second."""

    dtype: str
    bandwidth: float
    rate: float


# --- drop_recovery ------------------------------------------------------------------------------


class PrunedAccuracy(Evaluation):
    """The accuracy of a pruned network. Without the counts, no comparison is paired."""

    granularity: str
    amount: float
    only_dense: NotRequired[int]
    only_pruned: NotRequired[int]


class PrunedNetwork(PrunedAccuracy, Size):
    """A network right after pruning, as it is."""


class RetrainedNetwork(PrunedAccuracy):
    """A pruned network after ``epochs`` of training, a fraction of those of the recipe."""

    method: str
    schedule: str
    epoch_fraction: float
    seed: int
    epochs: float
    lr: float


class DenseNetwork(Evaluation, Size):
    """The network before pruning."""


class DropRecovery(OfNetwork):
    """Accuracy after pruning, after recalibration and after retraining."""

    seeds: list[int]
    recipe: Recipe
    dense: DenseNetwork
    pruned: list[PrunedNetwork]
    recalibrated: list[PrunedAccuracy]
    points: list[RetrainedNetwork]


# --- sparse_vs_dense ----------------------------------------------------------------------------


class Zeros(Recorded):
    """A dense product of ``size`` x ``size`` matrices of zeros, beside one of random numbers."""

    dtype: str
    size: int


class Product(TypedDict):
    """The product of a matrix, rows x columns, and ``batch`` vectors."""

    matrix: str
    rows: int
    columns: int
    batch: int
    dtype: str
    target_sparsity: float
    format: str


class TimedProduct(Product, Recorded):
    """A product with the matrix in a format; ``convert`` is the milliseconds to make it."""

    sparsity: float
    bytes: int
    convert: float
    error: float


class RefusedProduct(Product):
    """A product that this machine cannot compute."""

    why: str


class SparseVsDense(Header):
    """Sparse matrix products compared with dense ones."""

    device: str
    seed: int
    rooflines: list[Ceiling]
    zeros: list[Zeros]
    points: list[TimedProduct]
    refused: list[RefusedProduct]


# --- structured_speedup -------------------------------------------------------------------------


class NarrowPart(Recorded, Size):
    """A layer or network without a fraction of its channels; the roofline's predicted speed-up."""

    part: str
    removed: float
    batch: int
    dtype: str
    predicted: float


class Width(Recorded):
    """A layer with so many channels."""

    channels: int
    batch: int
    dtype: str
    macs: int


class StructuredSpeedup(OfNetwork):
    """The speed of layers and networks with fewer channels."""

    device: str
    rooflines: list[Ceiling]
    points: list[NarrowPart]
    staircase: list[Width]


# --- compression --------------------------------------------------------------------------------


class Deployments(OfNetwork):
    """Networks as they are deployed: in the runtime, and packed."""

    points: list[DeployedPoint]
    packed: list[PackedNetwork]


class CompressedNetwork(SmallerNetwork):
    """A network without a fraction of its ``channels``, and its accuracy before the training."""

    fake_quantized: bool
    channels: float
    before: NotRequired[Evaluation]
    recalibrated: NotRequired[Evaluation]


class Compression(Deployments):
    """A network pruned, quantized and packed."""

    networks: list[CompressedNetwork]


# --- transformer --------------------------------------------------------------------------------


class Change(TypedDict):
    """What ablation of a layer changes: accuracy in points, loss in nats."""

    layer: int
    accuracy: float
    loss: float


class HeadChange(Change):
    """The same for an attention head."""

    head: int


class OneShotAccuracy(Evaluation):
    """The accuracy of a transformer pruned in one shot."""

    method: str
    pattern: str


class RetrainedTransformer(OneShotAccuracy):
    """The same after retraining, and its packed bytes."""

    bytes: int


class SmallerTransformer(SmallerNetwork):
    """A transformer with so many layers, and without a fraction of its heads and neurons."""

    layers: int
    heads: float
    neurons: float
    distilled: bool
    before: Evaluation


class OperatorCount(TypedDict):
    """How many operators of a kind the int8 file has, and the type that they run in."""

    operator: str
    runs_in: str
    count: int


class Transformer(Deployments):
    """A transformer pruned, quantized and packed."""

    recipe: Recipe
    layers: list[Change]
    heads: list[HeadChange]
    one_shot: list[OneShotAccuracy]
    retrained: list[RetrainedTransformer]
    networks: list[SmallerTransformer]
    operators: list[OperatorCount]


# --- mixed --------------------------------------------------------------------------------------


class MixedRecipe(Recipe):
    """The fraction of the epochs that every network is trained for; its widths' common divisor."""

    epoch_fraction: float
    multiple: NotRequired[int]


class RemovedWeights(TypedDict):
    """The fractions of the weights that are removed or zero, of either part."""

    convolutions: float
    attention: float


class MixedNetwork(TypedDict):
    """A network whose convolutions and attention are each pruned in a way of their own."""

    name: str
    convolutions: str
    attention: str
    amount: float
    seed: int
    gone: RemovedWeights
    before: Evaluation
    recalibrated: NotRequired[Evaluation]
    after: Evaluation


class PartTime(Threads):
    """The time of a network without some of its parts."""

    network: str
    variant: str


class Mixed(Deployments):
    """Convolutions and attention, each pruned in every way."""

    recipe: MixedRecipe
    networks: list[MixedNetwork]
    parts: list[PartTime]


# --- distillation -------------------------------------------------------------------------------


class StudentRecipe(Recipe):
    """The recipe of the teacher, and the fraction of its channels that the student lacks."""

    removed: float


class TeacherCost(TypedDict):
    """How many times as long an epoch takes with a teacher, and the seconds of both."""

    ratio: float
    interval: Range
    rounds: int
    labels: float
    teacher: float


class Student(Evaluation):
    """A student after ``epochs`` of training, as many as the fraction of the time allows."""

    method: str
    time_fraction: float
    seed: int
    epochs: float


class Distillation(OfNetwork):
    """A small network, trained in four ways."""

    recipe: StudentRecipe
    cost: TeacherCost
    points: list[Student]
    deployed: list[DeployedPoint]
    packed: list[PackedNetwork]


# --- language_model -----------------------------------------------------------------------------


class ChoiceAccuracy(TypedDict):
    """Percent of the questions that a model gets right, and the counts beside the dense one."""

    accuracy: Percentage
    interval: PercentageInterval
    only_dense: int
    only_pruned: int


class LanguagePoint(Size):
    """A language model made smaller in a way, by an amount.

    ``perplexity``, and its ratio to that of the dense model, have three numbers: value and 95 %
    interval; ``losses`` are the means of the windows, in nats. ``bytes`` are those of the weights
    in float16, zeros as a bitmask, or of the file of the runtime if ``form`` is not "float32".
    ``writes`` is the text after the prompt.
    """

    way: str
    amount: str
    steps: int
    form: str
    perplexity: list[float]
    ratio: list[float]
    losses: list[float]
    next_word: ChoiceAccuracy
    capitals: ChoiceAccuracy
    bytes: int
    writes: str


class Bandwidth(TypedDict):
    """GB/s at which a matrix-vector product reads, with "one thread" or "two threads"."""

    threads: str
    gigabytes: float


DecoderThreads = TypedDict("DecoderThreads", {"one thread": Times, "two threads": Times})


class TimedDecoder(DecoderThreads):
    """The times of a language model in the runtime, and the bytes ``read`` for a token."""

    way: str
    amount: str
    steps: int
    form: str
    read: int


class LanguageModelRecording(Header):
    """A language model pruned in every way, quantized, and timed in the runtime."""

    weights: str
    steps: int
    lr: float
    prompt: str
    tokens: int
    influences: list[float]
    points: list[LanguagePoint]
    bandwidths: list[Bandwidth]
    times: list[TimedDecoder]


# --- all of them --------------------------------------------------------------------------------

#: The type of the recording of each experiment.
RECORDS: dict[str, type] = {
    "drop_recovery": DropRecovery,
    "sparse_vs_dense": SparseVsDense,
    "structured_speedup": StructuredSpeedup,
    "compression": Compression,
    "transformer": Transformer,
    "mixed": Mixed,
    "distillation": Distillation,
    "language_model": LanguageModelRecording,
}
