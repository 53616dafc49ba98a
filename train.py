"""Train one pruned agent, or sweep over many: ``python train.py agent=bcq prune=grasp sparsity=0.95``."""

from sparse_offline_rl.cli.train import main

if __name__ == "__main__":
    main()
