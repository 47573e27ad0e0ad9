"""Update rules by the names that configs give them."""

import dataclasses

from tfllm.training.optimizers import MuonAndAdamW, make_optimizer
from tfllm.training.update_rules import SGD, Adafactor, AdamW, Lamb, Lion

RULES = {
    "adamw": AdamW,
    "lion": Lion,
    "adafactor": Adafactor,
    "sgd": SGD,
    "lamb": Lamb,
    "muon": MuonAndAdamW,
}


def optimizer_of(kind, **settings):
    """An optimizer by the name of its rule; the rule gets what it has fields for."""
    own = {field.name for field in dataclasses.fields(RULES[kind])} & settings.keys()
    rule = RULES[kind](**{name: settings.pop(name) for name in own})
    return make_optimizer(rule, **settings)
