#!/usr/bin/env bash
# Looks up every package that requirements/*.txt pin, at its version, among the vulnerabilities that PyPI knows of.
# Fails for one that is known, and for a package that could not be looked up: where PyPI cannot be reached nothing is
# shown. Further arguments are pip-audit's own, such as another service to ask.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly PIP_AUDIT_VERSION=2.10.1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

main() {
  .venv/bin/python -m venv "$scratch/audit"
  "$scratch/audit/bin/python" -m pip install --quiet --disable-pip-version-check "pip-audit==$PIP_AUDIT_VERSION"
  local requirements failed=0
  for requirements in requirements/*.txt; do
    echo "==> $requirements"
    # Nothing is resolved or installed: what is pinned with its hash is what there is.
    "$scratch/audit/bin/pip-audit" --strict --require-hashes --disable-pip --progress-spinner off \
      --requirement "$requirements" "$@" || failed=1
  done
  return "$failed"
}

main "$@"
