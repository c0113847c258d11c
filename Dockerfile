# The command mnist with its pinned environment. How to build and use it: docs/team.md.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git libomp5 openssh-client \
        $(python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv) \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'

# Nobody in particular: `--user` takes another number, that of whoever owns the workspace. It has
# no name, and this home.
RUN useradd --create-home --uid 1000 mnist && chmod 1777 /home/mnist
ENV HOME=/home/mnist USER=mnist PATH=/opt/venv/bin:$PATH

# The environment: made again only when a pin changes. With the index of a registry that has builds
# of torch without CUDA, pip takes those: 2.14.1+cpu is what 2.14.1 asks for. TORCH takes the place
# of the pins of torch and torchvision.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG TORCH
WORKDIR /opt/mnist
COPY pyproject.toml constraints.txt ./
RUN mkdir pipeline && touch pipeline/__init__.py \
    && if [ -n "${TORCH}" ]; then sed -i -E '/^torch(vision)?==/d' constraints.txt; fi \
    && python3 -m venv /opt/venv \
    && pip install --no-cache-dir --constraint constraints.txt ${TORCH} --editable '.[s3,ssh]'

# The code: a layer of less than a megabyte
COPY pipeline pipeline

USER mnist
WORKDIR /workspace
CMD ["mnist", "--help"]
