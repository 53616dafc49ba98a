"""Thin wrapper: see ``sparse_offline_rl.cli.generate_dataset``."""

from sparse_offline_rl.cli.generate_dataset import main

if __name__ == "__main__":
    main()
