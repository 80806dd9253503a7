#!/usr/bin/env bash
# Pins with hashes, for every supported Python and 64-bit machine at once, what pyproject.toml asks for:
#   requirements/dev.txt         everything: the demo, the tests and the tools
#   requirements/aggregator.txt  a gateway: no TensorFlow
#   requirements/agent.txt       a device with the litert trainer: no TensorFlow
#   requirements/keras.txt       a device with both trainers
#   requirements/debian-agent.txt, debian-tools.txt  what Debian packages of agents hold, and what makes packages
# and what the Flower app asks for that the agents are measured against:
#   requirements/flower.txt
# Versions that still fit are kept; delete the files first to move to the newest. At the end it makes sure that
# none is missing and each has a wheel everywhere, since nobody compiles on a Pi.
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
  pin requirements/dev.txt pyproject.toml --universal --extra dev
  pin requirements/aggregator.txt pyproject.toml --universal --extra aggregator --constraints requirements/dev.txt
  # Not universal: on 32-bit Arm, which takes its packages from piwheels, the extra `agent` asks for others.
  local device=(pyproject.toml --python-platform "${MACHINES[0]}" --extra agent --constraints requirements/dev.txt)
  pin requirements/agent.txt "${device[@]}"
  pin requirements/keras.txt "${device[@]}" --extra keras
  pin requirements/debian-agent.txt "${device[@]}" --extra join --extra images
  pin requirements/debian-tools.txt deploy/debian/requirements.in --universal
  pin requirements/flower.txt benchmarks/agent_memory/flower-app/pyproject.toml --universal
  local requirements
  for requirements in dev aggregator agent keras debian-agent debian-tools flower; do
    check_wheels "requirements/$requirements.txt"
  done
}

# pin FILE PYPROJECT OPTION...
pin() {
  echo "==> $1"
  "$scratch/uv/bin/uv" pip compile --output-file "$@" --python-version "${PYTHONS[0]}" \
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
        --only-binary :all: --require-hashes --requirements "$1"
    done
  done
}

main
