"""Make figures and tables from run folders: ``python scripts/report.py runs=runs out=report``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("report")
