# syntax=docker/dockerfile:1
# A worker that renders on NVIDIA GPUs; the host needs the driver (580 or later for CUDA 13.0) and NVIDIA's container toolkit.
#   docker build -f deploy/docker/worker-cuda.Dockerfile --build-arg CUDA_COMPUTE_CAP=90 -t sanafarm/worker-cuda .
ARG RUST_VERSION=1.95
ARG CUDA_VERSION=13.0.1

FROM rust:${RUST_VERSION}-bookworm AS rust

FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04 AS build
# Oldest architecture that it runs on: 80 A100, 86 A10, 89 L4 and RTX 40, 90 H100 and H200, 120 RTX 50. Newer ones compile
# at their first start.
ARG CUDA_COMPUTE_CAP=80
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ pkg-config \
    && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup \
    PATH=/usr/local/cargo/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    CUDA_HOME=/usr/local/cuda CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} \
    LIBRARY_PATH=/usr/local/cuda/lib64:/usr/local/cuda/lib64/stubs
WORKDIR /src
COPY . .
# A folder of its own for objects: those of the plain build have other features.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=sanafarm-cuda,sharing=locked \
    cargo build --release --locked --package sanafarm --features cuda \
    && install -D --mode=0755 target/release/sanafarm /out/sanafarm

# The base image has libcudart; the driver (libcuda) comes from the host. What the program links beside them is small
# against the whole of the runtime image.
FROM nvidia/cuda:${CUDA_VERSION}-base-ubuntu24.04
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sanafarm worker, CUDA" \
    org.opencontainers.image.description="Renders what a Sanafarm coordinator hands out, on NVIDIA GPUs" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates curl cuda-nvrtc-13-0 libcublas-13-0 libcurand-13-0 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/sanafarm
COPY --from=build /out/sanafarm /usr/local/bin/sanafarm
COPY LICENSE /usr/share/doc/sanafarm/
# Models, the outbox and compiled kernels. Give it a volume. A number, so that Kubernetes sees that it is not root.
ENV SANAFARM_DATA=/var/lib/sanafarm HOME=/var/lib/sanafarm XDG_CACHE_HOME=/var/lib/sanafarm/cache \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /var/lib/sanafarm
USER 65532:65532
# /metrics, /healthz and /readyz.
EXPOSE 7072
# Finishes the image in hand, hands back the rest and leaves: give it time before it is killed.
STOPSIGNAL SIGTERM
ENV HEALTH_URL=http://127.0.0.1:7072/healthz
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec curl --fail --silent --show-error --insecure --max-time 4 --output /dev/null \"$HEALTH_URL\""]
ENTRYPOINT ["sanafarm"]
CMD ["worker", "--http", "0.0.0.0:7072", "--devices", "all"]
