#!/usr/bin/env bash
# Set up the virtual environment: bash deploy/install.sh VENV PYTHON TARGET
# pip reads its own configuration and finds a local CPU wheel of torch where one is offered; uv does not, so it is
# handed pip's find-links (without them it would choose the CUDA build).
set -euo pipefail
venv=$1 python=$2 target=$3
if [ ! -x "$venv/bin/python" ]; then
  command -v "$python" >/dev/null || { echo "$python was not found; DualForce needs Python 3.11 (make PYTHON=/path/to/python3.11)" >&2; exit 1; }
  echo "setting up $venv"
  "$python" -m venv "$venv"
fi
echo "installing $target into $venv (two to three minutes the first time)"
if command -v uv >/dev/null; then
  links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$venv/bin/pip" config get global.find-links 2>/dev/null || true)}}
  UV_CACHE_DIR=$venv/.cache/uv UV_FIND_LINKS=$(tr -s ' \n' ',' <<<"$links" | sed 's/^,//; s/,$//') \
    uv pip install --python "$venv/bin/python" --compile-bytecode -c constraints.txt -e "$target"
else
  "$venv/bin/pip" install --disable-pip-version-check --no-cache-dir -c constraints.txt -e "$target"
fi
