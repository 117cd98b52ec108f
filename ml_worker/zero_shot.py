"""Class names alone as a first opinion: what a model that both reads and sees makes of a pool without answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from ml_worker import encoders
from ml_worker.pool import Floats, Rows
from ml_worker.vision_models import ModelUnavailable, find_folder, load_weights, plain_name, reason

TEMPLATES = ("a photo of a {}", "a photo of the {}", "a picture of a {}", "{}")
# What CLIP was trained to, for a model that does not say.
TEMPERATURE = 0.01
_STEPS = 500
_SETTLED = 1e-7
_SAMPLE = 20_000  # items that shares are estimated from; more move them by less than half a percent
_BLOCK = 65_536


@lru_cache(maxsize=8)
def read_for(encoder: Path, class_names: tuple[str, ...]) -> tuple[Floats, float]:
    """`read_names` by the model whose encoder `pretrained` was saved in a folder, to compare its embeddings with.

    Kept, because every refit asks again until there are answers. Raises ModelUnavailable for a model that does not
    read, and encoders.Mismatch where its files are others by now: features of two models are never compared.
    """
    _check_reads(find_folder(json.loads((encoder / "encoder.json").read_text())["model"]))
    return read_names(encoders.load("pretrained").load(encoder).folder, class_names)


def read_names(folder: Path, class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> tuple[Floats, float]:
    """One direction per class, float32 (C, D) of length 1, and the temperature the model was trained to.

    A direction is the mean over templates with the name put in for {}. Radford et al. 2021, CLIP, section 3.1.4. The
    temperature is one over the model's own logit scale. folder: of a model that has text features, such as CLIP or
    SigLIP; raises ModelUnavailable for others.
    """
    from transformers import AutoTokenizer

    _check_reads(folder)
    model = load_weights(folder)
    if not hasattr(model, "get_text_features"):
        raise _does_not_read(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"{plain_name(folder)} holds no tokenizer, so class names cannot be read: {reason(error, folder)}"
        ) from error
    # SigLIP was trained on texts filled up to the longest; CLIP does not mind.
    longest = model.config.text_config.max_position_embeddings
    directions = []
    for name in class_names:
        prompts = [template.format(name) for template in templates]
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
        wanted = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
        with torch.inference_mode():
            found = model.get_text_features(**wanted)
        features = normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=1)
        directions.append(normalize(features.mean(dim=0), dim=0))
    return np.asarray(torch.stack(directions).numpy(), np.float32), _temperature(model)


def _check_reads(folder: Path) -> None:
    """Raises ModelUnavailable for a model without a text side, before its weights are read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a configuration can be wrong in
        raise ModelUnavailable(f"{plain_name(folder)} cannot be opened: {reason(error, folder)}") from error
    if not hasattr(config, "text_config"):
        raise _does_not_read(folder)


def _does_not_read(folder: Path) -> ModelUnavailable:
    return ModelUnavailable(f"the model {plain_name(folder)} does not read; give one of the kind of CLIP or SigLIP")


def _temperature(model: torch.nn.Module) -> float:
    scale = getattr(model, "logit_scale", None)
    return TEMPERATURE if scale is None else float(scale.detach().reshape(-1)[0].neg().exp())


def class_probs(embeddings: Floats, directions: Floats, temperature: float = TEMPERATURE) -> Floats:
    """float32 (N, C), rows sum to 1: softmax of the cosine of embeddings (N, D) and directions (C, D) / temperature.

    A larger temperature is less sure. These carry no prior: every class counts the same. SigLIP was trained to say
    yes or no to each text by itself; among classes of which one is right, its bias falls out and the same holds.
    """
    if embeddings.shape[1] != directions.shape[1]:
        raise ValueError(
            f"embeddings have {embeddings.shape[1]} numbers and class names {directions.shape[1]}; use the same model"
        )
    probs = np.empty((len(embeddings), len(directions)), np.float32)
    for start in range(0, len(embeddings), _BLOCK):
        block = np.asarray(embeddings[start : start + _BLOCK], np.float32)
        lengths = np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
        logits = (block / lengths) @ directions.T / temperature
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs[start : start + _BLOCK] = weights / weights.sum(axis=1, keepdims=True)
    return probs


def estimated_prior(probs: Floats) -> Floats:
    """The share of each class in the pool, float32 (C,), from probs (N, C) that carry no prior.

    Expectation maximisation: each class's share is the mean of the probabilities corrected by the shares so far
    (Saerens et al. 2002, equation 2.8), from equal shares. Where probs overlap, averaging them once would credit an
    absent class with every doubt; here its share goes to 0. Of a large pool 20,000 items, evenly spread, are asked.
    """
    if len(probs) == 0:
        raise ValueError("the pool is empty; nothing tells how common a class is")
    given = np.asarray(probs[:: max(1, len(probs) // _SAMPLE)], np.float64)
    prior = np.full(given.shape[1], 1.0 / given.shape[1])
    for _ in range(_STEPS):
        before, prior = prior, _corrected(given, prior).mean(axis=0)
        if np.abs(prior - before).max() < _SETTLED:
            break
    return prior.astype(np.float32)


def with_prior(probs: Floats, prior: Floats) -> Floats:
    """probs (N, C) that carry no prior -> float32 (N, C) that carry this one (C,)."""
    # An item that was not asked for the shares may be sure of a class to which they left nothing.
    shares = np.maximum(np.asarray(prior, np.float64), 1e-12)
    starts = range(0, len(probs), _BLOCK)
    blocks = [_corrected(probs[start : start + _BLOCK], shares).astype(np.float32) for start in starts]
    return np.concatenate([np.zeros((0, len(shares)), np.float32), *blocks])


def _corrected(probs: np.ndarray, prior: np.ndarray) -> np.ndarray:
    weighed = probs * prior  # in float64: shares of absent classes get very small
    return weighed / np.maximum(weighed.sum(axis=1, keepdims=True), 1e-300)


def quotas(prior: Floats, n_items: int, budget: int, share_below: float = 0.002) -> np.ndarray:
    """How many of the first `budget` proposals go to each class, int64 (C,): by its expected share of the pool.

    The sum is at most budget, and no class gets more than the pool is expected to hold. Classes expected on fewer than
    one item, or on a smaller share than share_below, which is what doubts leave of an absent class, get none; every
    other class gets at least one while the budget lasts, the commonest first. Equal quotas would fill those of absent
    classes with whatever is nearest.
    """
    expected = np.asarray(prior, np.float64) * n_items
    present = (expected >= 1.0) & (prior >= share_below)
    shares = np.where(present, expected, 0.0)
    ceiling = np.where(present, np.floor(expected), 0).astype(np.int64)
    given = np.zeros(len(shares), np.int64)
    given[np.argsort(-shares, kind="stable")[: min(budget, int(present.sum()))]] = 1
    wanted = budget * shares / max(shares.sum(), 1e-12)
    # One more at a time to the class that is furthest below its share.
    for _ in range(min(budget, int(ceiling.sum())) - int(given.sum())):
        given[np.argmax(np.where(given < ceiling, wanted - given, -np.inf))] += 1
    return given


def first_proposals(probs: Floats, budget: int) -> Rows:
    """Rows int64 (n,), n <= budget, the surest first: of each class as many as its quota, for their likeliest class.

    probs: float32 (N, C) from `with_prior`. Their mean is the prior, which is where expectation maximisation settles.
    """
    if len(probs) == 0:
        return np.zeros(0, np.int64)
    likeliest, surest = probs.argmax(axis=1), np.argsort(-probs.max(axis=1), kind="stable")
    given = quotas(probs.mean(axis=0, dtype=np.float64), len(probs), budget)
    turn = np.empty(len(surest), np.int64)  # how many of its class are surer
    for target in range(probs.shape[1]):
        mine = likeliest[surest] == target
        turn[mine] = np.arange(mine.sum())
    return np.asarray(surest[turn < given[likeliest[surest]]], np.int64)
