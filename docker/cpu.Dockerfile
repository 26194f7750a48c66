# vimzoo on CPUs: native kernels built here, training and restoration included. docs/install.md has the commands.
FROM python:3.12-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# An index with CPU builds of torch saves several gigabytes of CUDA libraries; empty, the usual build is taken.
ARG PIP_EXTRA_INDEX_URL=""
COPY --from=build /wheels /wheels
# hadolint ignore=DL3013
RUN python -m pip install --no-cache-dir "$(echo /wheels/*.whl)[train,restore]" \
    && useradd --create-home --uid 1000 user
WORKDIR /data
RUN chown 1000 /data
USER 1000
CMD ["python", "-m", "vimzoo.doctor"]
