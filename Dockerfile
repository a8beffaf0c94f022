# Image of every pod in clusters/kuberay.yaml: head, workers, MLflow and the job's submitter.
#
#   docker build -t REGISTRY/tkd_search:0.1.0 . && docker push REGISTRY/tkd_search:0.1.0
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu ...        CPU only, smaller
#
# The project's tests do not build this image (they have no container runtime).
FROM python:3.12-slim-bookworm

# Ray's autoscaler sidecar and runtime environments need these packages; KubeRay's probes use wget.
RUN apt-get update && apt-get install -y --no-install-recommends wget procps rsync openssh-client libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/tkd_search
ARG TORCH_INDEX=
COPY pyproject.toml constraints.txt setup.sh README.md LICENSE ./
COPY tkd_search tkd_search
COPY configs configs
ENV PIP_EXTRA_INDEX_URL=${TORCH_INDEX} PIP_NO_CACHE_DIR=1
RUN bash setup.sh --cluster

# clusters/kuberay.yaml runs pods as user 1000, who can write to /tkd and /tmp.
RUN useradd --create-home --uid 1000 ray && mkdir /tkd && chown ray:ray /tkd
ENV PATH=/opt/tkd_search/.venv/bin:$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 \
    PYTHONDONTWRITEBYTECODE=1 PIP_EXTRA_INDEX_URL=
USER ray
