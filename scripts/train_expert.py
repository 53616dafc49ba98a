"""Train policies that generate datasets: ``python scripts/train_expert.py env=hopper steps=1000000 out=experts``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("train-expert")
