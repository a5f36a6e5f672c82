# The admin API and the small services.
ARG RUNTIME
ARG BUILDER
FROM ${BUILDER} AS app-venv
COPY admin-api/requirements.txt /tmp/
RUN python3 -m venv /opt/app && /opt/app/bin/pip install -q -r /tmp/requirements.txt \
 && rm -rf /opt/app/lib/python3.13/site-packages/pip && /opt/app/bin/python -m compileall -q -j2 /opt/app/lib >/dev/null || true
FROM ${RUNTIME} AS app
COPY --from=app-venv /opt/app /opt/app
RUN useradd --uid 1000 --create-home app
ENV PATH=/opt/app/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
WORKDIR /app

FROM app AS service
COPY services /app
ARG VERSION=0.1.0
ARG SERVICE=admin-ui
ENV SCUTUM_STANDIN_VERSION=${VERSION} SCUTUM_STANDIN_SERVICE=${SERVICE}
LABEL org.opencontainers.image.version=${VERSION} org.opencontainers.image.source=https://github.com/scutum-dev/aigateway
USER app
EXPOSE 8080
CMD ["uvicorn", "service:app", "--host", "0.0.0.0", "--port", "8080"]

FROM app AS admin-api
COPY admin-api /app
COPY licences/test-public.pem /app/config/license-public.pem
ARG VERSION=0.1.0
RUN python3 select_release.py ${VERSION}
ENV SCUTUM_STANDIN_VERSION=${VERSION}
LABEL org.opencontainers.image.version=${VERSION} org.opencontainers.image.source=https://github.com/scutum-dev/aigateway
USER app
EXPOSE 8086
CMD ["uvicorn", "main:app", "--host", "0.0.0.0", "--port", "8086"]
