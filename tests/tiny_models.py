"""Vision models of a few thousand random weights, saved the way published ones are."""

import json
from pathlib import Path
from typing import Any

import torch

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
KINDS = ("vit", "dinov2", "convnext", "clip", "siglip")
WORDS = ["<pad>", "<unk>", "<end>", "a", "photo", "of", "cat", "dog", "ship"]


def save_tiny(kind: str, folder: Path, seed: int = 0) -> Path:
    """A model of this kind, its transform and, for those that read, its tokenizer, saved in folder."""
    torch.manual_seed(seed)
    _model(kind).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_transform(kind)))
    if kind in ("clip", "siglip"):
        _tokenizer().save_pretrained(folder)
    return folder


def _model(kind: str) -> Any:
    import transformers as t

    vision = SMALL | {"image_size": 16, "patch_size": 8}
    text = SMALL | {"vocab_size": len(WORDS), "max_position_embeddings": 8, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "vit":
        return t.ViTModel(t.ViTConfig(**vision), add_pooling_layer=False)
    if kind == "dinov2":
        vision.pop("intermediate_size")
        return t.Dinov2Model(t.Dinov2Config(**vision))
    if kind == "convnext":
        return t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1]))
    if kind == "clip":
        return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    assert kind == "siglip", kind
    return t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))


def _transform(kind: str) -> dict[str, Any]:
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True} | IMAGENET
    own: dict[str, dict[str, Any]] = {
        "vit": {"size": {"height": 16, "width": 16}, "resample": 2, "image_processor_type": "ViTImageProcessor"},
        "dinov2": {
            "size": {"shortest_edge": 20},
            "do_center_crop": True,
            "crop_size": {"height": 16, "width": 16},
            "resample": 3,
            "image_processor_type": "BitImageProcessor",
        },
        "convnext": {
            "size": {"shortest_edge": 32},
            "crop_pct": 0.875,
            "resample": 3,
            "image_processor_type": "ConvNextImageProcessor",
        },
        "clip": {
            "size": {"shortest_edge": 16},
            "do_center_crop": True,
            "crop_size": {"height": 16, "width": 16},
            "resample": 3,
            "image_processor_type": "CLIPImageProcessor",
        },
        "siglip": {"size": {"height": 16, "width": 16}, "resample": 3, "image_processor_type": "SiglipImageProcessor"},
    }
    return common | own[kind]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=8
    )
