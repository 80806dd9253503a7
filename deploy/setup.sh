#!/usr/bin/env bash
# Prepares a clone, saying what it does:
#   1. .venv: exactly what requirements/dev.txt pins and hashes, and the project itself, editable;
#   2. the Debian packages mosquitto and dataset-fashion-mnist, where it may install packages;
#   3. called as `deploy/setup.sh test-tools`, also the package with which tests record what a process writes, a
#      compiler, by which they give a process another clock, and on Debian those with which they emulate Arm devices
#      (0.5 GB).
# Once everything is in place it does nothing. Interrupted, it starts again with a new .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

readonly STAMP=.venv/set-up-for
readonly SYSTEM_PATH=$PATH:/usr/sbin # where Debian puts mosquitto, and what a user's PATH leaves out

main() {
  # Two makes at once wait for each other. What apt starts must not inherit the lock: see as_root.
  exec 9<requirements/dev.txt && flock 9
  is_done || set_up
  if [[ ${1:-} == test-tools ]]; then
    install_debian_package strace has_strace "tests of power cuts are skipped"
    install_debian_package gcc has_compiler "tests with wrong clocks are skipped"
    # What tests emulate is made of Debian's packages, as apt knows them here.
    if grep -q '^ID=debian' /etc/os-release; then
      install_emulators
    fi
  fi
}

set_up() {
  make_environment
  install_requirements
  install_debian_package mosquitto has_mosquitto \
    "the demo uses the broker it embeds, and tests that need a real one are skipped"
  install_debian_package dataset-fashion-mnist has_fashion_mnist \
    "Fashion-MNIST is downloaded, or scikit-learn's digits are used instead"
  wanted >"$STAMP"
  say "Ready. The next time this takes no time."
}

install_emulators() {
  install_debian_package qemu-user-static has_qemu "tests on emulated Arm devices are skipped"
  install_debian_package mmdebstrap has_mmdebstrap "tests on emulated Arm devices are skipped"
  install_debian_package uidmap has_uidmap "only root can run the tests on emulated Arm devices"
  install_debian_package gcc-arm-linux-gnueabihf has_arm_compiler "tests on an emulated 32-bit Arm device are skipped"
}

say() { printf '==> %s\n' "$@"; }

fail() {
  printf '==> %s\n' "$@" >&2
  exit 1
}

# What .venv is made for, one fact a line: where it lies (its scripts hold that path), its Python, what it contains.
wanted() {
  pwd -P
  .venv/bin/python --version
  sha256sum requirements/dev.txt pyproject.toml deploy/setup.sh
}

is_done() { [[ -f $STAMP && "$(wanted 2>&1)" == "$(<"$STAMP")" ]]; }

make_environment() {
  if is_usable; then
    say "Bringing .venv up to date"
    return
  fi
  local python
  python=$(find_python)
  if [[ -e .venv ]]; then
    say "Removing .venv, which is unfinished, broken, or was made elsewhere"
    rm -rf .venv
  fi
  say "Making .venv with $("$python" --version) ($python)"
  "$python" -m venv .venv
}

# A finished environment of this very place, whose Python is still installed.
is_usable() {
  [[ -f $STAMP && "$(head -n 1 "$STAMP")" == "$(pwd -P)" ]] && .venv/bin/python -m pip --version &>/dev/null
}

# Prints the path of a Python that can be used. The system's own comes first: its parts are Debian packages.
find_python() {
  local name python without_venv=""
  for name in python3 python3.13 python3.12 python3.11; do
    python=$(supported "$name") || continue
    if "$python" -c 'import ensurepip, venv' &>/dev/null; then
      echo "$python"
      return
    fi
    without_venv=${without_venv:-$python}
  done
  [[ -n $without_venv ]] || fail \
    "No 64-bit Python 3.11, 3.12 or 3.13 found (python3 is: $(python3 --version 2>&1 || true))." \
    "TensorFlow is published for no other. Debian 12 and 13, 64-bit Raspberry Pi OS and Ubuntu 24.04 have one:" \
    "  sudo apt-get install python3 python3-venv"
  add_venv_module "$without_venv"
  echo "$without_venv"
}

# Prints the path of the interpreter behind a name, which may be a wrapper; fails unless it is a supported one.
supported() {
  "$1" -c '
import sys
print(sys.executable)
sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and sys.maxsize > 2**32))' 2>/dev/null
}

# Debian and Ubuntu keep in a package of its own what a Python needs to make virtual environments.
add_venv_module() {
  local package
  package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if may_install; then
    say "Installing the Debian package $package, which $1 needs to make .venv" >&2
    apt_install "$package" && "$1" -c 'import ensurepip' && return
  fi
  fail "$1 cannot make a virtual environment. Install what it needs, then start again:" \
    "  sudo apt-get install $package"
}

install_requirements() {
  rm -f "$STAMP"
  say "Installing into .venv what requirements/dev.txt pins: 2.7 GB, a few minutes the first time"
  # Not in the system's own, which may be held in memory: too small for TensorFlow's wheel on a small Pi.
  local -x TMPDIR=$PWD/.venv/tmp
  mkdir -p "$TMPDIR"
  pip_install --require-hashes -r requirements/dev.txt
  pip_install --no-deps --no-build-isolation --editable .
  rm -r "$TMPDIR"
}

pip_install() {
  .venv/bin/python -m pip install --disable-pip-version-check --no-input "$@" |
    sed --unbuffered --quiet '/\.metadata /d; s/^  Downloading /    downloading /p; s/^Installing .*/    installing/p' ||
    fail "pip failed, for the reason above. It is safe to start again."
}

has_mosquitto() { PATH=$SYSTEM_PATH command -v mosquitto >/dev/null; }
has_fashion_mnist() { [[ -d /usr/share/datasets/fashion-mnist ]]; }
has_strace() { command -v strace >/dev/null; }
has_compiler() { command -v cc >/dev/null || command -v gcc >/dev/null; }
has_qemu() { command -v qemu-aarch64-static >/dev/null; }
has_mmdebstrap() { command -v mmdebstrap >/dev/null; }
has_uidmap() { command -v newuidmap >/dev/null; }
has_arm_compiler() { command -v arm-linux-gnueabihf-gcc >/dev/null; }

# install_debian_package PACKAGE IS_PRESENT WITHOUT_IT: does its best; the demo and the tests can do without.
install_debian_package() {
  "$2" && return
  if may_install; then
    say "Installing the Debian package $1"
    apt_install "$1" && "$2" && return
  fi
  say "Going on without the Debian package $1: $3. To have it:" "  sudo apt-get install $1"
}

may_install() {
  command -v apt-get >/dev/null && { ((EUID == 0)) || sudo -n true &>/dev/null; }
}

# The package lists of a new machine are missing or old: the first failure may only mean that.
apt_install() {
  apt_get install "$1" &>/dev/null || { apt_get update && apt_get install "$1"; }
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o DPkg::Lock::Timeout=120 "$@" >/dev/null
}

as_root() {
  if ((EUID == 0)); then
    "$@" 9<&-
  else
    sudo -n "$@" 9<&-
  fi
}

main "$@"
