#!/usr/bin/env bash
# Makes the Debian packages of agent and gateway, in dist/: all, or those of the targets that are named, such as
# bookworm-arm64. No other machine and no emulator is needed: wheels are unpacked, and the one extension that 32-bit Arm
# has to have compiled is cross-compiled (with the packages gcc-arm-linux-gnueabihf and mmdebstrap).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly WORK=dist/work

# The task of the first try takes TensorFlow, and so .venv.
.venv/bin/python -m deploy.debian.first_task "$WORK/shared"
if [[ ! -x $WORK/tools/bin/python || requirements/debian-tools.txt -nt $WORK/tools ]]; then
  rm -rf "$WORK/tools"
  .venv/bin/python -m venv "$WORK/tools"
  "$WORK/tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    -r requirements/debian-tools.txt
fi
exec "$WORK/tools/bin/python" -m deploy.debian --shared "$WORK/shared" "$@"
