"""Turn a published torch checkpoint into safetensors, once.

    python -m tropism_image.rewards.convert HPS_v2.1_compressed.pt HPS_v2.1.safetensors

Reads with ``torch.load(weights_only=True)``: only tensors and plain containers are restored and no code in the file runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file

from tropism.errors import RewardError
from tropism_image.rewards.weights import read_torch_tensors


def convert(source: Path, target: Path) -> int:
    """Write the tensors of ``source`` to ``target`` under their own names and dtypes; the number of tensors. Never overwrites."""
    if target.exists():
        raise RewardError(f"{target} exists already; name another file or remove it")
    # Cloned because safetensors refuses tensors that share memory, as tied weights do.
    tensors = {key: value.clone().contiguous() for key, value in read_torch_tensors(source).items()}
    save_file(tensors, target, metadata={"format": "pt"})
    return len(tensors)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tropism_image.rewards.convert", description="Torch checkpoint to safetensors.")
    parser.add_argument("source", type=Path, help="the published .pt or .pth file")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    arguments = parser.parse_args()
    print(f"{convert(arguments.source, arguments.target)} tensors written to {arguments.target}")


if __name__ == "__main__":
    main()
