"""Train one pruned agent, or sweep over many: ``python train.py agent=bcq prune=grasp sparsity=0.95``."""

import sys

if __name__ == "__main__":
    try:
        from sparse_offline_rl.cli.train import main  # takes seconds, in which Ctrl-C may come
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was started.")
    main()
