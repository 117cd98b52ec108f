"""The catalogue: every encoder, head, acquisition function and trainer by name, with its parameters.

Plain data. Defaults live only here: forms, the API, job validation and the commands are built from it, and
the classes and functions behind the names take their parameters without defaults. A name is the name of a
file: the head `label_spreading` is `ml_worker/heads/label_spreading.py`. Nothing has to be imported to be
listed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from annotator.errors import InvalidSettings

KINDS = ("encoder", "head", "acquisition", "trainer")
MAX_TEXT = 200  # characters of a parameter that is free text


@dataclass(frozen=True)
class Parameter:
    """One setting of an algorithm.

    A number (`type` int or float) lies within [minimum, maximum]. Text (`type` str) is one of `choices`, or, where
    there are none, one line of at most 200 characters.
    """

    name: str
    type: type
    default: int | float | str
    minimum: int | float = 0
    maximum: int | float = 0
    unit: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Algorithm:
    """One line of the catalogue. help: one sentence for people. source: where the method was published.

    deterministic: the same input gives the same result, whatever the seed.
    """

    kind: str
    name: str
    title: str
    help: str
    source: str
    parameters: tuple[Parameter, ...] = ()
    deterministic: bool = False


CATALOGUE = (
    Algorithm(
        kind="encoder",
        name="pca_pixels",
        title="Principal components of the pixels",
        help="Needs no training and no download; good for small, plain pictures, weak on photos.",
        source="Pearson 1901",
        parameters=(
            Parameter("components", int, 64, 2, 512, "dimensions", "At most so many numbers per item."),
            Parameter(
                "whitening",
                float,
                0.5,
                0.0,
                1.0,
                "",
                "0 keeps distances between pixels; 1 makes fine and coarse patterns weigh the same.",
            ),
        ),
    ),
    Algorithm(
        kind="encoder",
        name="self_supervised",
        title="Taught on your own images",
        help="A small network learns for some minutes to know each image again in another guise; for photos.",
        source="Chen et al. 2020, SimCLR; Bardes et al. 2022, VICReg",
        parameters=(
            Parameter(
                "variant",
                str,
                "contrastive",
                help="contrastive pushes different images apart; vicreg does not, which suits pools of near copies.",
                choices=("contrastive", "vicreg"),
            ),
            Parameter(
                "network",
                str,
                "quick",
                help="quick sees most images in the time a processor has; wide_resnet is best where there is a GPU.",
                choices=("quick", "small", "wide_resnet"),
            ),
            Parameter("minutes", float, 5.0, 0.01, 1440.0, "minutes", "It stops after so long."),
            Parameter("epochs", int, 200, 1, 10000, "epochs", "Or after so many passes over the pool."),
            Parameter(
                "colour", float, 0.5, 0.0, 1.0, "", "How far colours change; 0 where colour tells classes apart."
            ),
            Parameter(
                "flip",
                str,
                "no",
                help="Whether an image and its mirror image count as the same; never for letters and digits.",
                choices=("no", "yes"),
            ),
            Parameter(
                "batches",
                str,
                "random",
                help="clustered keeps look-alikes out of the same batch, so that they are not pushed apart.",
                choices=("random", "clustered"),
            ),
        ),
    ),
    Algorithm(
        kind="encoder",
        name="pretrained",
        title="A published model",
        help="Features of DINOv2, CLIP, SigLIP, ViT or ConvNeXt; the best start for photos, if it can be fetched.",
        source="Oquab et al. 2024, DINOv2; Radford et al. 2021, CLIP",
        parameters=(
            Parameter("model", str, "facebook/dinov2-small", help="A name on huggingface.co, or a folder."),
            Parameter("batch", int, 32, 1, 4096, "images", "So many at a time; fewer where memory is short."),
            Parameter(
                "amp",
                str,
                "auto",
                help="auto computes in 16 bits where the hardware is made for it; off in 32.",
                choices=("auto", "off", "bf16", "fp16"),
            ),
        ),
        deterministic=True,
    ),
    Algorithm(
        kind="head",
        name="label_spreading",
        title="Label spreading",
        help="Answers flow to look-alikes along a graph of the whole pool; strong from few answers.",
        source="Zhou et al. 2004, Learning with Local and Global Consistency",
        parameters=(
            Parameter("neighbours", int, 10, 1, 20, "items", "How many nearest items each item is linked to."),
            Parameter("alpha", float, 0.95, 0.01, 0.99, "", "The share of a score that comes from neighbours."),
        ),
        deterministic=True,
    ),
    Algorithm(
        kind="head",
        name="logistic_regression",
        title="Logistic regression",
        help="A straight boundary between the classes; suits strong encoders and many answers.",
        source="Cox 1958; scikit-learn",
        parameters=(
            Parameter(
                "inverse_penalty",
                float,
                1.0,
                0.001,
                1000.0,
                "",
                "Larger follows the answers more closely; smaller is smoother.",
            ),
        ),
        deterministic=True,
    ),
    Algorithm(
        kind="head",
        name="prototype",
        title="Nearest prototype",
        help="Compares each item with the most similar answers of each class; quick, and steady with few answers.",
        source="Snell et al. 2017, Prototypical Networks",
        parameters=(
            Parameter(
                "neighbours",
                int,
                3,
                0,
                20,
                "answers",
                "0 compares with the mean of a class; otherwise with so many of its most similar answers.",
            ),
            Parameter("shrinkage", float, 0.5, 0.0, 10.0, "answers", "How far a class of few answers moves inwards."),
            Parameter("temperature", float, 0.1, 0.001, 10.0, "", "Smaller is surer."),
        ),
        deterministic=True,
    ),
    Algorithm(
        kind="head",
        name="mlp",
        title="Small network",
        help="A curved boundary that must say the same of two looks at an item; takes seconds.",
        source="Laine and Aila 2017, Temporal Ensembling",
        parameters=(
            Parameter("hidden", int, 128, 1, 4096, "units", "The width of its one hidden layer."),
            Parameter("consistency", float, 3.0, 0.0, 100.0, "", "How much two looks at an item must agree."),
            Parameter("noise", float, 0.3, 0.0, 10.0, "", "How far a look is from the item; 1 is the pool's spread."),
            Parameter("steps", int, 300, 1, 10000, "steps", "How long it trains."),
        ),
    ),
    Algorithm(
        kind="acquisition",
        name="margin",
        title="Close calls first",
        help="Asks about items whose two most likely classes are nearly level, and not about near copies.",
        source="Scheffer et al. 2001",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="typiclust",
        title="Typical of unlabelled regions",
        help="Asks about the most typical item of each dense region without an answer; best at the start.",
        source="Hacohen et al. 2022, Active Learning on a Budget",
    ),
    Algorithm(
        kind="acquisition",
        name="random_sampling",
        title="At random",
        help="Asks about items drawn by lot; the yardstick for the others.",
        source="",
    ),
    Algorithm(
        kind="acquisition",
        name="disagreement",
        title="Disputed first",
        help="Asks about items on which five models, each trusting other answers more, disagree; costs five refits.",
        source="Houlsby et al. 2011, Bayesian Active Learning for Classification",
        deterministic=True,
    ),
    Algorithm(
        kind="trainer",
        name="supervised",
        title="Supervised",
        help="Learns from the labelled images alone, strongly augmented; the yardstick of the others.",
        source="",
    ),
    Algorithm(
        kind="trainer",
        name="pseudo_label",
        title="Pseudo-labels",
        help="What the network is sure of becomes an answer it learns from, more and more as it trains.",
        source="Lee 2013, Pseudo-Label",
        parameters=(
            Parameter("threshold", float, 0.95, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
            Parameter("ramp", float, 0.4, 0.0, 1.0, "of the run", "How long it takes until they count in full."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="mean_teacher",
        title="Mean teacher",
        help="It is drawn to what the average of its own recent states says of another view.",
        source="Tarvainen and Valpola 2017",
        parameters=(
            Parameter("weight", float, 50.0, 0.0, 1000.0, "", "How much the unlabelled images count."),
            Parameter("ramp", float, 0.4, 0.0, 1.0, "of the run", "How long it takes until they count in full."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="uda",
        title="UDA",
        help="A sharpened guess on a plain view is the answer for a distorted one.",
        source="Xie et al. 2020, Unsupervised Data Augmentation",
        parameters=(
            Parameter("threshold", float, 0.8, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("temperature", float, 0.4, 0.05, 1.0, "", "Smaller makes a guess count more like an answer."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
            Parameter(
                "annealing",
                str,
                "off",
                help="How late labelled images that are known already stop to rest; exponential suits few answers.",
                choices=("off", "logarithmic", "linear", "exponential"),
            ),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="fixmatch",
        title="FixMatch",
        help="What the network is sure of on a plain view, it learns to say on a distorted one.",
        source="Sohn et al. 2020, FixMatch",
        parameters=(
            Parameter("threshold", float, 0.95, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="flexmatch",
        title="FlexMatch",
        help="Like FixMatch, but easier on classes it has learnt little of; not for pools with rare classes.",
        source="Zhang et al. 2021, FlexMatch",
        parameters=(
            Parameter("threshold", float, 0.95, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="freematch",
        title="FreeMatch",
        help="Like FixMatch, but how sure it must be follows how sure it has become.",
        source="Wang et al. 2023, FreeMatch",
        parameters=(
            Parameter("ceiling", float, 0.95, 0.0, 1.0, "", "It never has to be surer than this; 1 sets no bound."),
            Parameter("fairness", float, 0.001, 0.0, 10.0, "", "How much it counts to keep all classes in use."),
            Parameter("momentum", float, 0.999, 0.0, 0.9999, "", "How slowly its picture of the pool moves."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="softmatch",
        title="SoftMatch",
        help="Every guess counts, the less the less sure it is.",
        source="Chen et al. 2023, SoftMatch",
        parameters=(
            Parameter("steepness", float, 2.0, 0.0, 100.0, "", "How fast unsure guesses lose weight."),
            Parameter("momentum", float, 0.999, 0.0, 0.9999, "", "How slowly its picture of the pool moves."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="simmatch",
        title="SimMatch",
        help="A guess is mixed with the labels of the labelled images that look most alike.",
        source="Zheng et al. 2022, SimMatch",
        parameters=(
            Parameter("threshold", float, 0.95, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("smoothing", float, 0.9, 0.0, 1.0, "", "The share of a guess that the look-alikes leave alone."),
            Parameter("temperature", float, 0.1, 0.01, 1.0, "", "Smaller listens to fewer look-alikes."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
            Parameter(
                "instance_weight", float, 1.0, 0.0, 100.0, "", "How much it counts to resemble the same images twice."
            ),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="simmatchv2",
        title="SimMatchV2",
        help="Labels flow along a small graph of each image and the labelled images nearest to it.",
        source="Zheng et al. 2023, SimMatchV2",
        parameters=(
            Parameter("threshold", float, 0.7, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("neighbours", int, 32, 1, 512, "items", "At most so many labelled images around each image."),
            Parameter("alpha", float, 0.1, 0.0, 0.99, "", "The share of a guess that comes from neighbours."),
            Parameter("temperature", float, 0.1, 0.01, 1.0, "", "Smaller listens to fewer neighbours."),
            Parameter("memory", int, 2048, 1, 100_000, "views", "How many recent unlabelled views are compared with."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
            Parameter("edge_weight", float, 5.0, 0.0, 100.0, "", "How much their similarities to each other count."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="shrinkmatch",
        title="ShrinkMatch",
        help="Where it wavers between a few classes, it still learns what the image is not.",
        source="Yang et al. 2023, ShrinkMatch",
        parameters=(
            Parameter("threshold", float, 0.95, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the images it is sure of count."),
            Parameter("shrunk_weight", float, 1.0, 0.0, 100.0, "", "How much the other images count."),
            Parameter("momentum", float, 0.99, 0.0, 0.9999, "", "How slowly its trust in the other images moves."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="iomatch",
        title="IOMatch",
        help="For pools that also hold images of none of the classes: it learns which ones those are.",
        source="Li et al. 2023, IOMatch",
        parameters=(
            Parameter("threshold", float, 0.95, 0.0, 1.0, "", "How sure it must be before a guess counts."),
            Parameter("open_threshold", float, 0.5, 0.0, 1.0, "", "The same where 'none of these' is an answer."),
            Parameter("weight", float, 1.0, 0.0, 100.0, "", "How much the unlabelled images count."),
            Parameter("open_weight", float, 1.0, 0.0, 100.0, "", "The same where 'none of these' is an answer."),
        ),
    ),
    Algorithm(
        kind="trainer",
        name="elr",
        title="Early-learning regularization",
        help="For labels that may be wrong: it is held to what it believed before it learnt them by heart.",
        source="Liu et al. 2020, Early-Learning Regularization",
        parameters=(
            Parameter("memory", float, 0.7, 0.0, 0.999, "", "How slowly its belief about an image moves."),
            Parameter("weight", float, 3.0, 0.0, 100.0, "", "How much its own belief counts against the label."),
        ),
    ),
)

DEFAULTS = {"encoder": "pca_pixels", "head": "label_spreading", "acquisition": "margin"}


def catalogue(kind: str) -> tuple[Algorithm, ...]:
    """The algorithms of one kind, in the order to show them."""
    if kind not in KINDS:
        raise InvalidSettings(f"{kind!r} is not a kind of algorithm; choose from {', '.join(KINDS)}")
    return tuple(algorithm for algorithm in CATALOGUE if algorithm.kind == kind)


def get(kind: str, name: str) -> Algorithm:
    """The algorithm of this kind and name. Raises InvalidSettings naming the ones there are."""
    for algorithm in catalogue(kind):
        if algorithm.name == name:
            return algorithm
    names = ", ".join(algorithm.name for algorithm in catalogue(kind)) or "none yet"
    raise InvalidSettings(f"{name!r} is not a known {kind}; there are: {names}", fields={kind: f"one of: {names}"})


def clean_parameters(kind: str, name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of an algorithm, taken from `raw` or by default, of the right type and within range.

    raw may hold strings, as a form sends them; an empty string means the default. Raises InvalidSettings with
    a sentence per field.
    """
    algorithm = get(kind, name)
    known = {parameter.name: parameter for parameter in algorithm.parameters}
    wrong = {key: f"{name} has no parameter of this name" for key in raw if key not in known}
    clean: dict[str, Any] = {}
    for parameter in algorithm.parameters:
        value = raw.get(parameter.name, parameter.default)
        try:
            clean[parameter.name] = _clean(parameter, parameter.default if value in ("", None) else value)
        except ValueError as error:
            wrong[parameter.name] = str(error)
    if wrong:
        sentences = "; ".join(f"{key}: {sentence}" for key, sentence in wrong.items())
        raise InvalidSettings(f"{algorithm.title}: {sentences}", fields=wrong)
    return clean


def _clean(parameter: Parameter, value: Any) -> int | float | str:
    if parameter.type is str:
        return _clean_text(parameter, value)
    kind = "a whole number" if parameter.type is int else "a number"
    span = f"wanted {kind} from {parameter.minimum} to {parameter.maximum}"
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not parameter.minimum <= number <= parameter.maximum:
        raise ValueError(f"found {value!r}, {span}")
    if parameter.type is int and not number.is_integer():
        raise ValueError(f"found {value!r}, {span}")
    return int(number) if parameter.type is int else number


def _clean_text(parameter: Parameter, value: Any) -> str:
    text = value.strip() if isinstance(value, str) else None
    if parameter.choices and text not in parameter.choices:
        raise ValueError(f"found {value!r}, wanted one of: {', '.join(parameter.choices)}")
    if text is None or len(text) > MAX_TEXT or not text.isprintable():
        raise ValueError(f"found {str(value)[:40]!r}, wanted one line of at most {MAX_TEXT} characters")
    return text
