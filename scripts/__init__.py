"""What a user runs, and what measures and checks tfllm from outside."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
