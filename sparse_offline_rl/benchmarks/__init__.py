"""Speed, size and memory against dense torch and other libraries: what ``scripts/benchmark.py`` runs."""
