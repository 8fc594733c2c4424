#!/bin/sh
# Makes a control plane of a machine: mounts its disk, fetches the program and its secrets, starts. Once; what fails stops it, and stands in
# /var/log/cloud-init-output.log.
set -eu
. /etc/meridian/machine.env
export AWS_DEFAULT_REGION="$AWS_REGION"

systemd-sysusers

# The disk may come a little after the machine. Made only if it is empty: it outlives machines.
disk=
for _ in $(seq 60); do
  for found in /dev/sdf /dev/xvdf /dev/nvme1n1; do [ ! -b "$found" ] || disk=$found; done
  [ -z "$disk" ] || break
  sleep 5
done
[ -n "$disk" ] || { echo "no data disk within 5 minutes" >&2; exit 1; }
blkid "$disk" >/dev/null || mkfs.xfs -q "$disk"
install -d -m 0700 /var/lib/meridian
echo "UUID=$(blkid -s UUID -o value "$disk") /var/lib/meridian xfs defaults,nosuid,nodev 0 2" >>/etc/fstab
mount /var/lib/meridian
chown meridian:meridian /var/lib/meridian
chmod 0700 /var/lib/meridian

fetch() {
  curl --fail --silent --show-error --location --retry 5 --output "$3" "$1"
  echo "$2  $3" | sha256sum --check --quiet
}
fetch "$PACKAGE_URL" "$PACKAGE_SHA256" /usr/bin/meridian.new
chmod 755 /usr/bin/meridian.new
mv /usr/bin/meridian.new /usr/bin/meridian
fetch "$WEB_URL" "$WEB_SHA256" /tmp/web.tar.gz
install -d -m 0755 /usr/share/meridian/web
tar -xzf /tmp/web.tar.gz -C /usr/share/meridian/web --no-same-owner

secret() { aws ssm get-parameter --with-decryption --name "$1" --query Parameter.Value --output text; }
install -d -m 0750 -o root -g meridian /etc/meridian /etc/meridian/tls
umask 0077
secret "$SECRET_TLS_CHAIN" >/etc/meridian/tls/fullchain.pem
secret "$SECRET_TLS_KEY" >/etc/meridian/tls/privkey.pem
chgrp meridian /etc/meridian/tls/*.pem
chmod 0640 /etc/meridian/tls/*.pem
# The authority that edges' certificates hang on; a disk that has one keeps it.
if [ ! -e /var/lib/meridian/pki/ca.key ]; then
  install -d -m 0700 /var/lib/meridian/pki
  secret "$SECRET_CA" >/var/lib/meridian/pki/ca.pem
  secret "$SECRET_CA_KEY" >/var/lib/meridian/pki/ca.key
  chown -R meridian:meridian /var/lib/meridian/pki
fi
# Read by systemd as root, and by nobody else.
cat >/etc/meridian/control-plane.env <<ENV
MERIDIAN_ENROLMENT_TOKENS=$(secret "$SECRET_ENROLMENT_TOKEN")
MERIDIAN_OPERATOR_TOKENS=$(secret "$SECRET_OPERATOR_TOKEN")
ENV

endpoints=$(echo "$ETCD_ENDPOINTS" | sed 's/,/", "/g')
cat >/etc/meridian/control-plane.toml <<TOML
id = "$ID"
data_directory = "/var/lib/meridian"
[http]
bind = "0.0.0.0:443"
certificate = "/etc/meridian/tls/fullchain.pem"
private_key = "/etc/meridian/tls/privkey.pem"
web_directory = "/usr/share/meridian/web"
# Edges come and go by themselves.
edge_origins = ["wss://*.${PAGE#*.}"]
[grpc]
bind = "0.0.0.0:8090"
names = ["control.${PAGE#*.}"]
[registry]
kind = "etcd"
endpoints = ["$endpoints"]
TOML
chgrp meridian /etc/meridian/control-plane.toml
chmod 0640 /etc/meridian/control-plane.toml

runuser -u meridian -- meridian doctor control-plane --config /etc/meridian/control-plane.toml || true
systemctl daemon-reload
systemctl enable --now meridian-control-plane.service
