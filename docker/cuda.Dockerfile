# vimzoo on NVIDIA GPUs. torch's wheels bring CUDA; the host brings its driver and the NVIDIA Container Toolkit.
# docs/install.md has the commands.
FROM python:3.12-slim
# The compiler stays: Triton builds a small launcher with it at run time.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# hadolint ignore=DL3013
RUN python -m pip install --no-cache-dir ".[train,restore]" && useradd --create-home --uid 1000 user
WORKDIR /data
RUN chown 1000 /data
USER 1000
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["python", "-m", "vimzoo.doctor"]
