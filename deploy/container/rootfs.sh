#!/bin/sh
# Makes the root of a container of one program and what it cannot run without: no shell, no package manager, nobody's setuid file.
#   rootfs.sh PROGRAM ROOT [WEB]     WEB: the built browser app
set -eu
program=$1 root=$2 web=${3-}
# As elsewhere for "nobody of this machine": what runs as it owns its data and nothing else.
user=65532

install -D -m 0755 "$program" "$root/usr/bin/meridian"
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
  # Not the link: what it leads to, under the link's name.
  install -D -m 0755 "$library" "$root$library"
done
install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo "meridian:x:$user:$user::/var/lib/meridian:/nowhere" >"$root/etc/passwd"
echo "meridian:x:$user:" >"$root/etc/group"
echo "hosts: files dns" >"$root/etc/nsswitch.conf"
install -d -m 0755 "$root/etc/meridian"
install -d -m 0700 -o "$user" -g "$user" "$root/var/lib/meridian"
install -d -m 1777 "$root/tmp"
if [ -n "$web" ]; then
  install -d "$root/usr/share/meridian/web"
  cp -R "$web/." "$root/usr/share/meridian/web"
fi
