"""Speed, size and memory against dense torch and other libraries: ``python scripts/benchmark.py only=updates,layer``."""

from sparse_offline_rl.benchmarks.command import main
from sparse_offline_rl.cli.main import run_main

if __name__ == "__main__":
    run_main(main)
