"""Acquisition functions: which item is asked about next."""

from annotator.algorithms.entries import Algorithm

ACQUISITION = (
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
)
