# Sourced by the other scripts: install_packages NAME... installs missing Debian packages. Does nothing if all are
# installed; needs root or sudo only to install. Services of these packages are not started, neither now nor at the next
# boot, because only the programs are needed.

install_packages() {
    local package missing=() sudo=""
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing: ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d had_policy=""
    if [ -e "$policy" ]; then
        had_policy=yes
    else
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
        $sudo chmod +x "$policy"
        trap "$sudo rm -f $policy" EXIT
    fi
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    if [ -z "$had_policy" ]; then
        $sudo rm -f "$policy"
        trap - EXIT
    fi
    local service
    for service in nginx haproxy prometheus; do
        if [[ " ${missing[*]} " == *" $service "* ]] && command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
            $sudo systemctl disable --quiet "$service"
        fi
    done
}
