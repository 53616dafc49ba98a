"""Generate a dataset: ``python scripts/generate_dataset.py env=hopper dataset=medium size=100000``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("generate-dataset")
