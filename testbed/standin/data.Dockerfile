# Postgres, Redis and static pages; what is cheap and common comes first.
ARG RUNTIME
FROM ${RUNTIME} AS runtime

# Postgres and Redis, real: Debian's packages behind the interface of the official images.
FROM runtime AS postgres
RUN apt-get update -qq && mkdir -p /etc/postgresql-common \
 && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-17 zstd >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/lib/postgresql/17/lib/bitcode && mkdir /docker-entrypoint-initdb.d
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
COPY postgres/entrypoint.sh /usr/local/bin/docker-entrypoint.sh
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM runtime AS redis
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && mkdir -p /data && chown redis:redis /data
COPY redis/entrypoint.sh /usr/local/bin/docker-entrypoint.sh
VOLUME /data
WORKDIR /data
EXPOSE 6379
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["redis-server"]

FROM runtime AS static
ARG PAGE=docs
COPY static/${PAGE} /srv/www
ARG VERSION=0.1.0
LABEL org.opencontainers.image.version=${VERSION} org.opencontainers.image.source=https://github.com/scutum-dev/aigateway
EXPOSE 80
# As process 1 it would not hear SIGTERM, and every stop would take ten seconds.
STOPSIGNAL SIGINT
CMD ["python3", "-u", "-m", "http.server", "80", "--directory", "/srv/www"]
