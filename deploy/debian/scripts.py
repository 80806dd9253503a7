"""The scripts by which dpkg sets a package up and takes it away. Each may be interrupted anywhere, and run again.

They are for both packages, and so are written here once: `@NAME@` is the package, `@UNITS@` those that are started at
boot, `@RANK@` whose `fedprune` command comes first where both are installed.
"""

from __future__ import annotations

_POSTINST = """\
#!/bin/sh
set -e

case "$1" in
configure | abort-upgrade | abort-remove | abort-deconfigure) ;;
*) exit 0 ;;
esac

if ! getent passwd @NAME@ >/dev/null; then
    adduser --system --group --quiet --no-create-home --home /var/lib/@NAME@ @NAME@
fi
if [ ! -d /var/lib/@NAME@ ]; then
    install -d -m 0700 -o @NAME@ -g @NAME@ /var/lib/@NAME@
fi
# Services may not write here, and would compile anew at each start.
/usr/lib/@NAME@/bin/python3 -m compileall -q /usr/lib/@NAME@/lib || true
update-alternatives --quiet --install /usr/bin/fedprune fedprune /usr/lib/@NAME@/bin/fedprune @RANK@

for unit in @UNITS@; do
    deb-systemd-helper unmask "$unit" >/dev/null || true
    if deb-systemd-helper --quiet was-enabled "$unit"; then
        deb-systemd-helper enable "$unit" >/dev/null || true
    else
        deb-systemd-helper update-state "$unit" >/dev/null || true
    fi
done
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    for unit in @UNITS@; do
        deb-systemd-invoke start "$unit" >/dev/null || true
    done
fi
"""

_PRERM = """\
#!/bin/sh
set -e

# It imports as it goes: it must not run while its files are exchanged.
if [ -d /run/systemd/system ]; then
    for unit in @UNITS@; do
        deb-systemd-invoke stop "$unit" >/dev/null || true
    done
fi
case "$1" in
remove | deconfigure)
    update-alternatives --quiet --remove fedprune /usr/lib/@NAME@/bin/fedprune
    ;;
esac
find /usr/lib/@NAME@ -type d -name __pycache__ -prune -exec rm -rf {} +
"""

_POSTRM = """\
#!/bin/sh
set -e

case "$1" in
remove | purge)
    rm -rf /usr/lib/@NAME@
    ;;
esac
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
fi
if [ "$1" = purge ]; then
    rm -rf /var/lib/@NAME@
    if command -v deb-systemd-helper >/dev/null; then
        for unit in @UNITS@; do
            deb-systemd-helper purge "$unit" >/dev/null || true
            deb-systemd-helper unmask "$unit" >/dev/null || true
        done
    fi
    if getent passwd @NAME@ >/dev/null; then
        deluser --system --quiet @NAME@ || true
    fi
    if getent group @NAME@ >/dev/null; then
        delgroup --system --quiet @NAME@ || true
    fi
fi
"""


def maintainer_scripts(name: str, units: tuple[str, ...], rank: int) -> dict[str, str]:
    """Their texts by the names that dpkg knows them by."""
    texts = {"postinst": _POSTINST, "prerm": _PRERM, "postrm": _POSTRM}
    words = {"@NAME@": name, "@UNITS@": " ".join(units), "@RANK@": str(rank)}
    for word, meaning in words.items():
        texts = {script: text.replace(word, meaning) for script, text in texts.items()}
    return texts
