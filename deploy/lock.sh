#!/usr/bin/env bash
# Pins with hashes, for every supported Python and machine at once, what pyproject.toml asks for:
#   requirements/dev.txt         everything: the demo, the tests and the tools
#   requirements/aggregator.txt  a gateway, and a 64-bit device with the litert trainer: no TensorFlow
# Versions that still fit are kept; delete the files first to move to the newest. At the end it makes sure that
# each pin has a wheel everywhere, since nobody compiles on a Pi.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly UV_VERSION=0.13.9
readonly PYTHONS=(3.11 3.12 3.13)
readonly MACHINES=(x86_64-manylinux_2_28 aarch64-manylinux_2_28)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

main() {
  .venv/bin/python -m venv "$scratch/uv"
  "$scratch/uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
  pin requirements/dev.txt --extra dev
  pin requirements/aggregator.txt --extra aggregator --constraints requirements/dev.txt
  check_wheels requirements/dev.txt
  check_wheels requirements/aggregator.txt
}

pin() {
  echo "==> $1"
  "$scratch/uv/bin/uv" pip compile pyproject.toml --output-file "$@" --universal --python-version "${PYTHONS[0]}" \
    --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet
}

check_wheels() {
  local python machine
  for python in "${PYTHONS[@]}"; do
    for machine in "${MACHINES[@]}"; do
      echo "==> $1 has wheels for Python $python on $machine"
      # pyproject.toml's constraints are for the resolver: they have no hashes.
      "$scratch/uv/bin/uv" pip install --no-config --dry-run --quiet --python .venv/bin/python \
        --target "$scratch/nowhere" --python-version "$python" --python-platform "$machine" \
        --only-binary :all: --no-deps --require-hashes --requirements "$1"
    done
  done
}

main
