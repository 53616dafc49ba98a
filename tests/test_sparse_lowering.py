"""The kernels on processors that this machine can imitate: vectors of 16 floats become what the processor has."""

import json
import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

AVX2 = "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="AVX2 is for x86")
def test_without_avx512_they_compute_the_same_with_avx2(tmp_path):
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2, "NUMBA_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kernel_check.py")],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["zmm"] == 0
    assert found["ymm"] > 1000
