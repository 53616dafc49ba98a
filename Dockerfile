# docker build -t sparse-offline-rl . && mkdir -p runs && docker run --rm -v "$PWD/runs:/app/runs" sparse-offline-rl
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 researcher \
    && mkdir -p /app/runs \
    && chown -R researcher /app

WORKDIR /app
USER 1000

COPY --chown=researcher . .
RUN make .venv/.installed .venv/.installed-dev

# TensorBoard: docker run --rm -p 6006:6006 -v "$PWD/runs:/app/runs" sparse-offline-rl .venv/bin/tensorboard --logdir runs --host 0.0.0.0
EXPOSE 6006

# `make train` trains the headline agent; `docker run … make test` runs the tests.
CMD ["make", "train"]
