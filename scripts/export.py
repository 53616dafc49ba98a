"""Export a trained policy: ``python scripts/export.py run_dir=… to=onnx|c|dense [out=…]``."""

from sparse_offline_rl.cli.main import run_command

if __name__ == "__main__":
    run_command("export")
