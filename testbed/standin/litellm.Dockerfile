# LiteLLM, real.
ARG RUNTIME
ARG BUILDER
FROM ${BUILDER} AS litellm-venv
COPY litellm/requirements.txt litellm/constraints.txt /tmp/
RUN python3 -m venv /opt/litellm && /opt/litellm/bin/pip install -q -c /tmp/constraints.txt -r /tmp/requirements.txt \
 && cd /opt/litellm/lib/python3.13/site-packages && rm -rf pip polars _polars_runtime_32 granian pyroscope hf_xet \
    litellm/proxy/_experimental/out && mkdir -p litellm/proxy/_experimental/out \
 && /opt/litellm/bin/python -m compileall -q -j2 . >/dev/null || true
FROM ${RUNTIME} AS litellm
COPY --from=litellm-venv /opt/litellm /opt/litellm
COPY litellm/standin /opt/standin
# The release's health check is wget --spider. Debian's sends HEAD, which LiteLLM refuses; the product's image has another.
RUN printf '#!/bin/sh\nfor url; do :; done\nexec /usr/bin/wget -q -O /dev/null --tries=1 "$url"\n' > /usr/local/bin/wget \
 && chmod +x /usr/local/bin/wget
COPY litellm/config.yaml /etc/litellm/config.yaml
ENV PATH=/opt/litellm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/opt/standin \
    LITELLM_LOCAL_MODEL_COST_MAP=True LITELLM_TELEMETRY=False PYTHONUNBUFFERED=1 \
    TIMEOUT_WORKER_HEALTHCHECK=120
WORKDIR /app
ENTRYPOINT ["python3", "-m", "entrypoint"]
CMD ["--config", "/etc/litellm/config.yaml", "--port", "4000"]
ARG VERSION=0.1.0
ENV SCUTUM_STANDIN_VERSION=${VERSION}
LABEL org.opencontainers.image.version=${VERSION} org.opencontainers.image.source=https://github.com/scutum-dev/aigateway
