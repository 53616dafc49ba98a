"""Train one pruned agent, or sweep over many: ``python train.py agent=bcq prune=grasp sparsity=0.95``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("train")
