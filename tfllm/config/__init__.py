"""Configs: YAML and dotted overrides → frozen dataclasses. Imports no TensorFlow."""

from tfllm.config.errors import ConfigError, Problem
from tfllm.config.experiment import ExperimentConfig
from tfllm.config.load import config_from_mapping, load_config, save_config
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

__all__ = [
    "ConfigError",
    "ExperimentConfig",
    "Problem",
    "Registry",
    "config_from_mapping",
    "load_config",
    "save_config",
    "setting",
]
