"""Make figures and tables from run folders: ``python scripts/report.py runs=runs out=report``."""

from sparse_offline_rl.cli.report import main

if __name__ == "__main__":
    main()
