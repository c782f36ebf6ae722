# The command line, and an image for Ray's head and workers.
#     docker build -t sfi-ray .
#     docker run --rm --shm-size=2g -v "$PWD/runs:/runs" sfi-ray launch jobs/digits_5sfi.yaml     (add --gpus all)
# A digest fixes the base: --build-arg BASE=python:3.12-slim-bookworm@sha256:...
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
RUN python -m pip install --no-cache-dir uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_CACHE_DIR=/var/cache/uv \
    UV_PROJECT_ENVIRONMENT=/opt/sfi_ray
WORKDIR /src
# The packages, gigabytes that change with the pins alone. There is no uv.lock to copy: the pins leave the resolution
# no choice.
COPY pyproject.toml ./
# Extras of pyproject.toml, such as EXTRA=aws for the head of a cluster on AWS.
ARG EXTRA=""
RUN --mount=type=cache,target=/var/cache/uv uv sync --no-dev --no-install-project ${EXTRA:+--extra "$EXTRA"}
# The project.
COPY README.md LICENSE ./
COPY sfi_ray sfi_ray
RUN --mount=type=cache,target=/var/cache/uv uv sync --no-dev --no-editable ${EXTRA:+--extra "$EXTRA"}

FROM ${BASE}
# `ray up` in its docker mode copies files with rsync inside the container, and a head reaches its workers over ssh.
# It starts the image as `IMAGE bash`, so give docker.run_options an `--entrypoint=env`. KubeRay's probes call wget.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home sfi \
    && install --directory --owner=sfi --group=sfi /runs \
    # Ray's login shells reset PATH to the system's own folders.
    && ln -s /opt/sfi_ray/bin/ray /opt/sfi_ray/bin/sfi-ray /usr/local/bin/
COPY --from=build /opt/sfi_ray /opt/sfi_ray
# HOME is where `ray up` puts its files. The NVIDIA variables let the GPUs in; without a GPU they do nothing.
ENV PATH=/opt/sfi_ray/bin:${PATH} \
    HOME=/home/sfi \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/sfi
# Jobs write to `runs/` of the working folder, which is the volume. A folder of the host mounted there hides no jobs.
RUN ln -s /runs runs
COPY --chown=1000:1000 jobs jobs
VOLUME /runs
ENTRYPOINT ["sfi-ray"]
CMD ["--help"]
