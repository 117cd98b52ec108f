"""Class names alone as a first opinion: what a model that both reads and sees makes of a pool without answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from ml_worker.pool import Floats
from ml_worker.vision_models import ModelUnavailable, load_weights

TEMPLATES = ("a photo of a {}", "a photo of the {}", "a picture of a {}", "{}")
_STEPS = 500
_SETTLED = 1e-7


def text_features(folder: Path, class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Floats:
    """One direction per class, float32 (C, D) of length 1: the mean over templates with the name put in for {}.

    folder: of a model that has text features, such as CLIP or SigLIP; raises ModelUnavailable for others. Radford et
    al. 2021, CLIP, section 3.1.4. Compare with the embeddings of the encoder `pretrained` of the same model.
    """
    from transformers import AutoTokenizer

    model = load_weights(folder)
    if not hasattr(model, "get_text_features"):
        raise ModelUnavailable(f"the model in {folder} does not read; give one of the kind of CLIP or SigLIP")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{folder} holds no tokenizer, so class names cannot be read: {error}") from error
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
    return np.asarray(torch.stack(directions).numpy(), np.float32)


def class_probs(embeddings: Floats, directions: Floats, temperature: float = 0.01) -> Floats:
    """float32 (N, C), rows sum to 1: softmax of the cosine of embeddings (N, D) and directions (C, D) / temperature.

    0.01 is what CLIP was trained to; larger is less sure. These carry no prior: every class counts the same.
    """
    if embeddings.shape[1] != directions.shape[1]:
        raise ValueError(
            f"embeddings have {embeddings.shape[1]} numbers and class names {directions.shape[1]}; use the same model"
        )
    lengths = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    logits = (embeddings / lengths) @ directions.T / temperature
    logits -= logits.max(axis=1, keepdims=True)
    probs = np.exp(logits)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True), np.float32)


def estimated_prior(probs: Floats) -> Floats:
    """The share of each class in the pool, float32 (C,), from probs (N, C) that carry no prior.

    Expectation maximisation: each class's share is the mean of the probabilities corrected by the shares so far
    (Saerens et al. 2002, equation 2.8), from equal shares. Where probs overlap, averaging them once would credit an
    absent class with every doubt; here its share goes to 0.
    """
    if len(probs) == 0:
        raise ValueError("the pool is empty; nothing tells how common a class is")
    given = np.asarray(probs, np.float64)
    prior = np.full(given.shape[1], 1.0 / given.shape[1])
    for _ in range(_STEPS):
        before, prior = prior, _corrected(given, prior).mean(axis=0)
        if np.abs(prior - before).max() < _SETTLED:
            break
    return prior.astype(np.float32)


def with_prior(probs: Floats, prior: Floats) -> Floats:
    """probs (N, C) that carry no prior -> float32 (N, C) that carry this one (C,)."""
    return _corrected(np.asarray(probs, np.float64), np.asarray(prior, np.float64)).astype(np.float32)


def _corrected(probs: np.ndarray, prior: np.ndarray) -> np.ndarray:
    weighed = probs * prior
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


def first_proposals(probs: Floats, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 (n,) and their proposed classes int64 (n,), n <= budget: the surest of each class, up to its quota.

    probs: float32 (N, C) from `class_probs`. An item is proposed for its likeliest class only, after the prior.
    """
    prior = estimated_prior(probs)
    posterior = with_prior(probs, prior)
    likeliest, surest = posterior.argmax(axis=1), np.argsort(-posterior.max(axis=1), kind="stable")
    chosen = [
        surest[likeliest[surest] == target][:quota]
        for target, quota in enumerate(quotas(prior, len(probs), budget).tolist())
    ]
    rows = np.concatenate(chosen).astype(np.int64)
    return rows, likeliest[rows].astype(np.int64)
