#!/usr/bin/env bash
# Makes .venv with tkd_search and everything it needs, pinned by constraints.txt. Run it again at any time.
#   ./setup.sh             what a search and its export need
#   ./setup.sh --test      and what the tests need
#   ./setup.sh --cluster   and what `ray up`, S3 and GCS need
# PYTHON names another interpreter (3.11 or newer); VENV another folder than .venv.
set -euo pipefail
cd "$(dirname "$0")"
venv=${VENV:-.venv}
extras=""
for option in "$@"; do
  case $option in
    --test) extras="${extras:+$extras,}test" ;;
    --cluster) extras="${extras:+$extras,}cluster" ;;
    *) sed -n '2,6p' "$0" >&2; echo "setup.sh: unknown option $option" >&2; exit 2 ;;
  esac
done

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      python=$candidate; break
    fi
  done
fi
if [ -z "$python" ]; then
  echo "setup.sh: no Python 3.11 to 3.13 found; install one, or name it: PYTHON=/path/to/python3 ./setup.sh" >&2
  exit 2
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# pip compares what is wanted with what is there, so a second run costs seconds.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extras:+[$extras]}"
