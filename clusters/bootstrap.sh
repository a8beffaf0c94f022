#!/usr/bin/env bash
# Prepares this host for a tkd_search cluster: token permissions, pinned environment, database and settings.
#   bash bootstrap.sh head|worker        `ray up` runs it; it can be run again at any time
# Environment variables (~/.tkd/settings is sourced if it exists):
#   TKD_VENV=/path      existing environment to use; default: creates ~/tkd_search/.venv, pinned by constraints.txt
#   TKD_DATABASE=uri    SQLAlchemy URI of MLflow's database; default: PostgreSQL on the head, or sqlite if that fails
#   TKD_STORAGE=uri     default: metadata.storage of the cluster file
set -euo pipefail
role=${1:-}
case $role in head|worker) ;; *) sed -n '2,7p' "$0" >&2; exit 2 ;; esac
state=${TKD_STATE:-$HOME/.tkd}
source_folder=$HOME/tkd_search
umask 077
mkdir -p "$state" "$HOME/.ray"
# shellcheck disable=SC1091
if [ -f "$state/settings" ]; then . "$state/settings"; fi
log() { echo "bootstrap.sh: $*" >&2; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq update &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq install -y "$@" > /dev/null
}

# Without a token, Ray would start without authentication.
if [ ! -s "$HOME/.ray/auth_token" ]; then
  log "no token in ~/.ray/auth_token. On your own machine, run: ray get-auth-token --generate; then ray up again"
  exit 1
fi
chmod 700 "$HOME/.ray"
chmod 600 "$HOME/.ray/auth_token"

install_environment() {
  local stamp wanted
  wanted=$(cd "$source_folder" && sha256sum constraints.txt pyproject.toml setup.sh)
  stamp=$state/installed
  if [ -x "$source_folder/.venv/bin/ray" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then return; fi
  if ! python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    apt_install python3-venv
  fi
  # Without a GPU, install PyTorch's CPU build: the same version with the suffix +cpu, and a much smaller download.
  if ! nvidia-smi > /dev/null 2>&1; then
    export PIP_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL:-https://download.pytorch.org/whl/cpu}
  fi
  (umask 022; bash "$source_folder/setup.sh" --cluster)
  printf '%s\n' "$wanted" > "$stamp"
}
if [ -z "${TKD_VENV:-}" ]; then
  install_environment
  TKD_VENV=$source_folder/.venv
fi
[ -x "$TKD_VENV/bin/ray" ] || { log "no Ray in $TKD_VENV; install it there, or unset TKD_VENV"; exit 1; }
python=$TKD_VENV/bin/python

secret() {  # secret FILE: prints the secret in a file; creates it if the file is missing or empty
  [ -s "$1" ] || "$python" -c 'import secrets; print(secrets.token_urlsafe(24))' > "$1"
  cat "$1"
}

# Database of MLflow, reachable from this host only. (Optuna's study is a journal in the run's folder.)
postgres_uri() {
  local password
  command -v psql > /dev/null && ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || apt_install postgresql || return 1
  as_root systemctl start postgresql 2> /dev/null || true
  if ! as_root runuser -u postgres -- psql -qtc 'select 1' > /dev/null 2>&1; then
    pg_lsclusters -h | while read -r version name _; do as_root pg_ctlcluster "$version" "$name" start || true; done
  fi
  password=$(secret "$state/postgres_password")
  as_root runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 > /dev/null <<SQL || return 1
DO \$\$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tkd') THEN CREATE ROLE tkd LOGIN; END IF;
END \$\$;
ALTER ROLE tkd PASSWORD '$password';
SELECT 'CREATE DATABASE mlflow OWNER tkd' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'mlflow') \gexec
SQL
  echo "postgresql+psycopg2://tkd:$password@127.0.0.1:5432/mlflow"
}

storage=${TKD_STORAGE:-}
if [ "$role" = head ]; then
  if [ -z "$storage" ] && [ -f "$HOME/ray_bootstrap_config.yaml" ]; then
    storage=$("$python" -c '
import sys, yaml
print((yaml.safe_load(open(sys.argv[1])).get("metadata") or {}).get("storage") or "")' "$HOME/ray_bootstrap_config.yaml")
  fi
  if [ -z "${TKD_DATABASE:-}" ]; then
    TKD_DATABASE=$(postgres_uri) || {
      log "PostgreSQL cannot be installed or started: MLflow uses a sqlite file, which suits one search at a time"
      TKD_DATABASE=sqlite:///$state/mlflow.db
    }
  fi
fi

{
  echo "export PATH=$TKD_VENV/bin:\$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 TKD_STATE=$state"
  echo 'ulimit -n 65536 2> /dev/null || ulimit -n "$(ulimit -Hn)"'
  # Ray's processes must start within 30 seconds; the first imports on a small machine can take longer. Retry.
  echo 'again() { local i; for i in 1 2 3; do "$@" && return; ray stop --force; done; return 1; }'
  if [ -n "$storage" ]; then echo "export TKD_STORAGE=$storage"; fi
  if [ "$role" = head ]; then
    echo "export TKD_DATABASE=$TKD_DATABASE TKD_CLUSTER_FILE=$HOME/ray_bootstrap_config.yaml"
    echo "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 MLFLOW_TRACKING_USERNAME=admin"
    echo "export MLFLOW_TRACKING_PASSWORD=$(secret "$state/mlflow_password")"
  fi
} > "$state/env.new"
mv "$state/env.new" "$state/env"

# Ray's own commands (`ray down`, `ray exec`) find Ray through .bashrc. In a login on the head (`ray attach`),
# RAY_ADDRESS makes commands join this cluster. Ray's own commands must not see it; their shells have c in `$-`.
if ! grep -qsF '# tkd_search' "$HOME/.bashrc"; then
  join=":"
  if [ "$role" = head ]; then join="export RAY_ADDRESS=auto; cd $source_folder"; fi
  echo ". $state/env; case \$- in *c*) ;; *) $join ;; esac  # tkd_search" >> "$HOME/.bashrc"
fi
log "$role ready: $("$TKD_VENV/bin/ray" --version)"
