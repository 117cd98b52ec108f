"""Encoders: what turns each image into the numbers everything else works on."""

from annotator.algorithms.entries import Algorithm, Parameter

ENCODERS = (
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
)
