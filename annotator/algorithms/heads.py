"""Heads: fast models on embeddings, which learn while people answer."""

from annotator.algorithms.entries import Algorithm, Parameter

HEADS = (
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
        help="A curved boundary that must say the same of two looks at an item: in pools of up to 100,000 images at"
        " four views that are embedded with them, in larger ones at noise alone. Takes seconds.",
        source="Laine and Aila 2017, Temporal Ensembling",
        parameters=(
            Parameter("hidden", int, 128, 1, 4096, "units", "The width of its one hidden layer."),
            Parameter("consistency", float, 3.0, 0.0, 100.0, "", "How much two looks at an item must agree."),
            Parameter("noise", float, 0.3, 0.0, 10.0, "", "How far a look is from the item; 1 is the pool's spread."),
            Parameter("steps", int, 300, 1, 10000, "steps", "How long it trains."),
        ),
        by_views=True,
    ),
)
