"""Shared by all tests: two logical CPU devices, a private cache, quiet TensorFlow."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

# Before anything starts TensorFlow: the replicated tests need two devices.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory):
    """Rows and tokenizers go to a temporary folder, never to the user's cache."""
    os.environ["TFLLM_CACHE"] = str(tmp_path_factory.mktemp("cache"))
