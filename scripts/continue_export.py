"""Continue a prompt with an exported model, using TensorFlow and nothing of tfllm.

    python scripts/continue_export.py runs/quickstart/export "The assert statement" --seed 0

Without settings the signature `serving_default` answers; with any, `generate`, where the settings left out
are the export's defaults.
"""

import argparse
import json
import os
import sys
from pathlib import Path

# Python puts this folder first, whose names would hide modules of the standard library.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SETTINGS = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "repetition_penalty": float,
    "seed": int,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", metavar="EXPORT_DIR", help="version folders, or one of them")
    parser.add_argument("prompt", help="text to continue")
    parser.add_argument("--signature", choices=("serving_default", "generate"), help="default: see above")
    for name, kind in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="default: the export's")
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None}
    signature = arguments.signature or ("generate" if given else "serving_default")
    if given and signature == "serving_default":
        parser.error("serving_default takes no settings; leave --signature out, or use generate")
    folder = newest_version(Path(arguments.export))
    if folder is None:
        parser.error(f"{arguments.export} holds no exported model; write one with tfllm export")
    print(arguments.prompt + answer(folder, signature, arguments.prompt, given))
    if "tfllm" in sys.modules:
        print("the export imported tfllm, so it does not stand alone", file=sys.stderr)
        return 1
    return 0


def newest_version(folder: Path) -> Path | None:
    """The folder itself where it is a version, else the largest version in it."""
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [
        int(path.parent.name) for path in folder.glob("*/saved_model.pb") if path.parent.name.isdigit()
    ]
    return folder / str(max(versions)) if versions else None


def answer(folder: Path, signature: str, prompt: str, given: dict) -> str:
    import tensorflow as tf  # here, so that --help and mistakes answer at once

    # The signatures belong to the loaded object, which must outlive the call.
    loaded = tf.saved_model.load(str(folder))
    inputs = {"prompt": tf.constant([os.fsencode(prompt)])}
    if signature == "generate":
        metadata = json.loads((folder / "assets.extra" / "tfllm.json").read_text(encoding="utf-8"))
        settings = {**metadata["defaults"], **given}
        for name, kind in SETTINGS.items():
            inputs[name] = tf.constant([settings[name]], tf.int32 if kind is int else tf.float32)
    return loaded.signatures[signature](**inputs)["text"].numpy()[0].decode()


if __name__ == "__main__":
    sys.exit(main())
