# The command mnist with its pinned environment. How to build and use it: docs/team.md.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libomp5 openssh-client python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The environment: made again only when a pin changes. PIP_OPTIONS may name another registry, such
# as one that has builds of torch without CUDA, and TORCH such a build.
ARG PIP_OPTIONS=
ARG TORCH=torch
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/mnist
COPY pyproject.toml constraints.txt ./
RUN mkdir pipeline && touch pipeline/__init__.py \
    && python3 -m venv /opt/venv \
    && pip install --no-cache-dir ${PIP_OPTIONS} --constraint constraints.txt "${TORCH}" \
    && pip install --no-cache-dir ${PIP_OPTIONS} --constraint constraints.txt --editable '.[s3,ssh]'

# The code: a layer of less than a megabyte
COPY pipeline pipeline

# Nobody in particular: `--user` takes another number, that of whoever owns the workspace.
RUN useradd --create-home --uid 1000 mnist
ENV HOME=/home/mnist
USER mnist
WORKDIR /workspace
ENTRYPOINT ["mnist"]
CMD ["--help"]
