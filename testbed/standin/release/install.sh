#!/bin/sh
# Stand-in for the vendor's installer: fetches a bundle, never overwrites a file, writes config/.env once, starts nothing.
set -eu
version="${SCUTUM_VERSION:-0.1.0}"
dir="${INSTALL_DIR:-$PWD/scutum}"
base="${BASE_URL:-https://scutum.dev/release/v$version}"
while [ $# -gt 0 ]; do
    case "$1" in
        --version) version="$2"; base="https://scutum.dev/release/v$version" ;;
        --dir) dir="$2" ;;
        --base) base="$2" ;;
        *) echo "unknown option: $1" >&2; exit 1 ;;
    esac
    shift 2
done
docker compose version >/dev/null 2>&1 || { echo "docker with the compose plugin is needed" >&2; exit 1; }
mkdir -p "$dir/config"
cd "$dir"

get() { # get FILE NAME: an existing file is kept as it is
    [ -f "$1" ] || curl -fsSL "$base/$2" -o "$1" || { echo "cannot fetch $base/$2" >&2; exit 1; }
}
get docker-compose.yaml docker-compose.yaml
get config/license-public.pem license-public.pem
get config/.env.example .env.example
get scutum scutum
chmod +x scutum

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
if [ ! -f config/.env ]; then
    sed -e "s/sk-CHANGE-ME-openssl-rand-hex-32/${SCUTUM_API_KEY:-sk-$(random 32)}/" \
        -e "s/^\(JWT_SECRET_KEY\)=CHANGE-ME.*/\1=${JWT_SECRET_KEY:-$(random 32)}/" \
        -e "s/^\(INTERNAL_SERVICE_KEY\)=CHANGE-ME.*/\1=${INTERNAL_SERVICE_KEY:-$(random 32)}/" \
        -e "s/^\(POSTGRES_PASSWORD\)=CHANGE-ME.*/\1=${POSTGRES_PASSWORD:-$(random 16)}/" config/.env.example > config/.env
    chmod 600 config/.env
fi
echo "Scutum v$version is in $dir; start it with: cd $dir && ./scutum up"
