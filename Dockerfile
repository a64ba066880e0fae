# The orchestrator on one machine; for Kubernetes there is docs/cluster/Dockerfile.
#
#   docker build --tag prompt-orchestrator .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" --volume "$PWD:/work" \
#       prompt-orchestrator sweep quickstart
#
# On a machine without a GPU leave out --gpus; an image without CUDA, a third of the size:
#
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu ...
FROM python:3.12-slim
ARG TORCH_INDEX=""
WORKDIR /opt/orchestrator
COPY constraints.txt pyproject.toml README.md ./
COPY methods methods
COPY orchestrator orchestrator
COPY search_spaces search_spaces
# torch first and by itself: where it comes from another index, its torchvision must, too.
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        torch torchvision \
    && pip install --no-cache-dir --constraint constraints.txt '.[postgres]'
# Sweeps, images and caches lie in the mounted folder, and belong to who started the container; that
# user has no name in here, which torch and Ray ask for.
ENV HOME=/work USER=user
WORKDIR /work
ENTRYPOINT ["orchestrator"]
CMD ["--help"]
