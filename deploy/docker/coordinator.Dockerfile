# syntax=docker/dockerfile:1
# The coordinator, and the program itself for whoever steers a farm: it has no CUDA in it.
#   docker build -f deploy/docker/coordinator.Dockerfile -t sanafarm/coordinator .
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
COPY . .
# Downloads and objects stay in caches between builds; the binary must leave the one that it is made in.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=sanafarm-cpu,sharing=locked \
    cargo build --release --locked --package sanafarm \
    && install -D --mode=0755 target/release/sanafarm /out/sanafarm

FROM debian:bookworm-slim
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sanafarm coordinator" \
    org.opencontainers.image.description="Serves the jobs of a Sanafarm render farm" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# Certificates for object stores and databases; curl for the health check.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/sanafarm
COPY --from=build /out/sanafarm /usr/local/bin/sanafarm
COPY LICENSE /usr/share/doc/sanafarm/
# Whatever is written is written here. A number, so that Kubernetes sees that it is not root.
ENV HOME=/var/lib/sanafarm
WORKDIR /var/lib/sanafarm
USER 65532:65532
# gRPC; /metrics, /healthz and /readyz.
EXPOSE 7070 7071
STOPSIGNAL SIGTERM
# A certificate is for other names than this one, so it is not looked at. With TLS: HEALTH_URL=https://127.0.0.1:7071/healthz
ENV HEALTH_URL=http://127.0.0.1:7071/healthz
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "exec curl --fail --silent --show-error --insecure --max-time 4 --output /dev/null \"$HEALTH_URL\""]
ENTRYPOINT ["sanafarm"]
CMD ["coordinator", "--listen", "0.0.0.0:7070", "--http", "0.0.0.0:7071"]
