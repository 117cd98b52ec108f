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


def save_reading(folder: Path, shown: dict[str, Any]) -> Path:
    """A CLIP that knows these words by images of them, uint8 (N, px, px, 3) each: its text side solved for."""
    import numpy as np
    from transformers import AutoTokenizer, CLIPModel

    from ml_worker.encoders.pretrained import Encoder
    from ml_worker.zero_shot import TEMPLATES

    model = CLIPModel.from_pretrained(save_tiny("clip", folder))
    encoder = Encoder(model=str(folder), batch=32, amp="off", seed=0)
    middles = np.stack([encoder.embed(images).mean(axis=0) for images in shown.values()])
    middle = middles.mean(axis=0)
    apart = middles - middle
    apart -= np.outer(apart @ middle / (middle @ middle), middle)  # half way between the words neither is nearer
    prompts = [template.format(word) for word in shown for template in TEMPLATES]
    tokens = AutoTokenizer.from_pretrained(folder)(prompts, padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        read = model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        wanted = torch.from_numpy(apart).repeat_interleave(len(TEMPLATES), dim=0)
        model.text_projection.weight.copy_(torch.linalg.lstsq(read, wanted).solution.T)
    model.save_pretrained(folder)
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
