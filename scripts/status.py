"""Say which runs are done, running, failed or missing: ``python scripts/status.py runs=runs``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("status")
