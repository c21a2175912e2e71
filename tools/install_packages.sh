#!/bin/sh
# Install the named Debian packages that are missing.  Without root: say what is missing and how to
# install it.
set -eu
missing=""
for package in "$@"; do
    if ! dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
        missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "These packages are missing; install them and run make again:" >&2
    echo "  sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=600 update
# The word list is meant to be split.
# shellcheck disable=SC2086
apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=600 install $missing > /dev/null
