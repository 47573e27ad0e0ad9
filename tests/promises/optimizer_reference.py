"""Every optimizer in float64 NumPy, from the papers' formulas: weights after steps with given gradients."""

import fnmatch
import math
import re

import numpy as np


def rate_at(step, section, total):
    """The learning rate of update `step`, counted from 0."""
    schedule = section["schedule"]
    kind, warmup = schedule["type"], schedule["warmup_steps"]
    if schedule["warmup_fraction"] is not None:
        warmup = round(schedule["warmup_fraction"] * total)
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if kind == "constant":
        return section["learning_rate"] * rise
    start = max(warmup, round(total * (1 - schedule["decay_fraction"]))) if kind == "wsd" else warmup
    progress = min(1.0, max(0.0, (step - start) / max(1, total - start)))
    left = (1 + math.cos(math.pi * progress)) / 2 if kind == "cosine" else 1 - progress
    final = schedule["final_fraction"]
    return section["learning_rate"] * rise * (final + (1 - final) * left)


def trained(section, start, gradients, total, num_layers):
    """Weights by path after a step for each of `gradients`, and their moving average or None."""
    weights = {path: value.astype(np.float64) for path, value in start.items()}
    average, decay = dict(weights), section["ema_decay"]
    memory = {path: {} for path in weights}
    for step, by_path in enumerate(gradients):
        for path, weight in weights.items():
            rate, weight_decay = _settings(path, weight, section, num_layers)
            if rate is None:
                continue
            rate *= rate_at(step, section, total)
            gradient = by_path[path].astype(np.float64)
            rule = RULES[section["type"]]
            if section["type"] == "muon" and ("block_" not in path or weight.ndim != 2):
                rule = _adamw
            weights[path] = rule(weight, gradient, memory[path], step + 1, rate, weight_decay, section)
        if decay is not None:
            kept = min(decay, (1 + step) / (10 + step))
            average = {path: kept * average[path] + (1 - kept) * weights[path] for path in weights}
    return weights, average if decay is not None else None


def _settings(path, weight, section, num_layers):
    scale, decay = 1.0, section["weight_decay"]
    if section["layer_decay"] != 1.0:
        block = re.search(r"block_(\d+)/", path)
        depth = num_layers - int(block[1]) if block else num_layers + 1 if "embedding" in path else 0
        scale = section["layer_decay"] ** depth
    for group in section["groups"]:
        if fnmatch.fnmatchcase(path, group["pattern"]):
            if group["freeze"]:
                return None, None
            scale *= group["learning_rate_scale"]
            decay = decay if group["weight_decay"] is None else group["weight_decay"]
            break
    decays = section["decay_embeddings"] if path.endswith("/embeddings") else weight.ndim >= 2
    return scale, decay if decays else 0.0


def _moments(g, memory, s):
    for name, beta, value in (("m", s["beta_1"], g), ("v", s["beta_2"], g * g)):
        memory[name] = beta * memory.get(name, 0.0) + (1 - beta) * value
    return memory["m"], memory["v"]


def _adamw(w, g, memory, t, rate, decay, s):
    m, v = _moments(g, memory, s)
    size = math.sqrt(1 - s["beta_2"] ** t) / (1 - s["beta_1"] ** t)
    return w - rate * size * m / (np.sqrt(v) + s["epsilon"]) - rate * decay * w


def _lamb(w, g, memory, t, rate, decay, s):
    m, v = _moments(g, memory, s)
    step = m / (1 - s["beta_1"] ** t) / (np.sqrt(v / (1 - s["beta_2"] ** t)) + s["epsilon"]) + decay * w
    norms = np.linalg.norm(w), np.linalg.norm(step)
    return w - rate * (norms[0] / norms[1] if all(norms) else 1.0) * step


def _lion(w, g, memory, t, rate, decay, s):
    m = memory.get("m", 0.0)
    memory["m"] = s["beta_2"] * m + (1 - s["beta_2"]) * g
    return w - rate * np.sign(s["beta_1"] * m + (1 - s["beta_1"]) * g) - rate * decay * w


def _sgd(w, g, memory, t, rate, decay, s):
    if not s["momentum"]:
        return w - rate * g - rate * decay * w
    v = memory["v"] = s["momentum"] * memory.get("v", 0.0) - rate * g
    return w + (s["momentum"] * v - rate * g if s["nesterov"] else v) - rate * decay * w


def _adafactor(w, g, memory, t, rate, decay, s):
    keep, square = 1 - t**-0.8, g * g + 1e-30
    axes = {"row": -1, "column": -2} if w.ndim > 1 else {"whole": None}
    for name, axis in axes.items():
        mean = square if axis is None else square.mean(axis)
        memory[name] = keep * memory.get(name, 0.0) + (1 - keep) * mean
    if w.ndim > 1:
        row = memory["row"] / memory["row"].mean(-1, keepdims=True)
        v = row[..., :, None] * memory["column"][..., None, :]
    else:
        v = memory["whole"]
    u = g / np.sqrt(v)
    rms = lambda x: math.sqrt((x * x).mean())  # noqa: E731
    own = min(rate, 1 / math.sqrt(t)) if s["relative_step"] else rate
    size = max(1e-3, rms(w * (1 - rate * decay)))
    return w - rate * decay * w - own * size * u / max(1.0, rms(u))


def _muon(w, g, memory, t, rate, decay, s):
    b = memory["b"] = s["momentum"] * memory.get("b", 0.0) + g
    x = g + s["momentum"] * b if s["nesterov"] else b
    x = x.T if (tall := x.shape[0] > x.shape[1]) else x
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(s["ns_steps"]):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if tall else x
    return w - 0.2 * math.sqrt(max(w.shape)) * rate * x - rate * decay * w


RULES = {
    "adamw": _adamw,
    "lamb": _lamb,
    "lion": _lion,
    "sgd": _sgd,
    "adafactor": _adafactor,
    "muon": _muon,
}
