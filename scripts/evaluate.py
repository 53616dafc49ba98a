"""Evaluate a stored policy: ``python scripts/evaluate.py run_dir=runs/… episodes=100``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("evaluate")
