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
        name="least_confidence",
        title="Least sure first",
        help="Asks about items whose most likely class is least likely; as close calls, but drawn to odd items.",
        source="Lewis and Gale 1994",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="entropy",
        title="Most open first",
        help="Asks about items for which many classes are possible; with many classes, close calls do better.",
        source="Dagan and Engelson 1995",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="density_margin",
        title="Close calls among many alike",
        help="Asks about close calls in crowded regions; not for finding rare kinds, which it puts last.",
        source="Settles and Craven 2008",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="bald",
        title="What an answer would settle",
        help="Asks about items on which five models, each trusting other answers more, disagree; costs five refits, "
        "and was no better than at random on digits.",
        source="Houlsby et al. 2011, Bayesian Active Learning for Classification",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="disagreement",
        title="Disputed first",
        help="Asks where the model, the nearest answered item and the mean of each class name different classes; "
        "poor where the encoder does not suit the images.",
        source="Dagan and Engelson 1995",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="badge",
        title="Unsure and different from each other",
        help="Draws items by lot that the model is unsure of in different ways; for long batches between refits.",
        source="Ash et al. 2020, BADGE",
    ),
    Algorithm(
        kind="acquisition",
        name="coreset",
        title="Farthest from every answer",
        help="Asks about what is least like anything answered; finds oddities first, so not for the start or for "
        "pools with strangers.",
        source="Sener and Savarese 2018, A Core-Set Approach",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="rare_class",
        title="More of the scarcest class",
        help="Asks about what may be of the class with the fewest answers; to find more of it, not to learn fastest.",
        source="Srinivas et al. 2010, Gaussian Process Optimization in the Bandit Setting",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="inlier_margin",
        title="Close calls that belong",
        help="Asks about close calls, and less about what looks like items answered none of these; costs five refits, "
        "and without such answers does as close calls.",
        source="",
        deterministic=True,
    ),
    Algorithm(
        kind="acquisition",
        name="typiclust",
        title="Typical of unlabelled regions",
        help="Asks about the most typical item of each dense region without an answer; best at the start.",
        source="Hacohen et al. 2022, Active Learning on a Budget",
        starts=True,
    ),
    Algorithm(
        kind="acquisition",
        name="probcover",
        title="Stands for most others",
        help="Asks about items with the most others close by that have no answer; for the start, not for the last "
        "few percent.",
        source="Yehuda et al. 2022, Active Learning Through a Covering Lens",
        starts=True,
    ),
    Algorithm(
        kind="acquisition",
        name="random_sampling",
        title="At random",
        help="Asks about items drawn by lot; the yardstick for the others.",
        source="",
        starts=True,
    ),
)
