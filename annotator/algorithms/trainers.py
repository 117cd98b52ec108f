"""Trainers: how a network learns from the answers and the pool."""

from annotator.algorithms.entries import Algorithm, Parameter

TRAINERS = (
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
