# Stand-ins for the images of a Scutum release: see README.md. This one is under all of them. The other Dockerfiles are built side
# by side on top of it, one target an image; what differs between releases is in the last layer, so that a host that pulls
# a second release pulls little. The old builder builds every target above the one it is asked for.
ARG BASE
FROM ${BASE} AS runtime
COPY ca.crt /usr/local/share/ca-certificates/testbed.crt
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates wget python3 >/dev/null \
 && update-ca-certificates >/dev/null && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

FROM runtime AS builder
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_DEFAULT_TIMEOUT=180 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
