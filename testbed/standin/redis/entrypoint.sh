#!/bin/sh
# The interface of the official image: options are redis-server's, run as the user redis.
set -eu
case "${1:-}" in -* | *.conf) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    chown -R redis:redis /data
    exec setpriv --reuid=redis --regid=redis --init-groups "$@" --bind "* -::*" --protected-mode no
fi
exec "$@"
