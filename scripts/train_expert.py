"""Thin wrapper: see ``sparse_offline_rl.cli.train_expert``."""

from sparse_offline_rl.cli.train_expert import main

if __name__ == "__main__":
    main()
