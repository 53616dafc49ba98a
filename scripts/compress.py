"""Make a policy file smaller: ``python scripts/compress.py run_dir=runs/… bits=8``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("compress")
