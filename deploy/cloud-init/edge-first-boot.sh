#!/bin/sh
# Makes an edge of a machine: fetches the program, asks the machine who it is, fetches its secrets, enrols, starts. Once; what fails stops it,
# and stands in /var/log/cloud-init-output.log.
set -eu
. /etc/meridian/machine.env
export AWS_DEFAULT_REGION="$AWS_REGION"

systemd-sysusers
sysctl --system >/dev/null

curl --fail --silent --show-error --location --retry 5 --output /usr/bin/meridian.new "$PACKAGE_URL"
echo "$PACKAGE_SHA256  /usr/bin/meridian.new" | sha256sum --check --quiet
chmod 755 /usr/bin/meridian.new
mv /usr/bin/meridian.new /usr/bin/meridian

metadata=http://169.254.169.254/latest
token=$(curl --fail --silent --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$metadata/api/token")
ask() { curl --fail --silent --header "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/$1"; }
instance=$(ask instance-id)
node="$REGION-${instance#i-}"
v4=$(ask public-ipv4)
private=$(ask local-ipv4)
v6=$(ask ipv6 || true)

secret() { aws ssm get-parameter --with-decryption --name "$1" --query Parameter.Value --output text; }
install -d -m 0750 -o root -g meridian /etc/meridian /etc/meridian/tls
install -d -m 0700 -o meridian -g meridian /etc/meridian/pki
umask 0077
secret "$SECRET_TLS_CHAIN" >/etc/meridian/tls/fullchain.pem
secret "$SECRET_TLS_KEY" >/etc/meridian/tls/privkey.pem
secret "$SECRET_CA" >/etc/meridian/ca.pem
chgrp meridian /etc/meridian/tls/*.pem
chmod 0640 /etc/meridian/tls/*.pem

bind="\"0.0.0.0:10000\"" advertise="\"$v4\"" turn="\"0.0.0.0:3478\""
[ -z "$v6" ] || { bind="$bind, \"[::]:10000\"" advertise="$advertise, \"$v6\"" turn="$turn, \"[::]:3478\""; }
endpoints=$(echo "$ETCD_ENDPOINTS" | sed 's/,/", "/g')
cat >/etc/meridian/edge.toml <<TOML
[node]
id = "$node"
region = "$REGION"
capacity = $CAPACITY
[http]
bind = "0.0.0.0:443"
public_url = "wss://$node.$DOMAIN"
public_addresses = [$advertise]
certificate = "/etc/meridian/tls/fullchain.pem"
private_key = "/etc/meridian/tls/privkey.pem"
[media]
bind = [$bind]
advertise = [$advertise]
[turn]
udp = [$turn]
tcp = [$turn]
tls = ["0.0.0.0:443"]
advertise = [$advertise]
[link]
bind = "0.0.0.0:7900"
advertise = "$v4:7900"
[registry]
kind = "etcd"
endpoints = ["$endpoints"]
[control_plane]
url = "$CONTROL_PLANE_URL"
[pki]
directory = "/etc/meridian/pki"
TOML
chgrp meridian /etc/meridian/edge.toml
chmod 0640 /etc/meridian/edge.toml

MERIDIAN_ENROLMENT_TOKEN=$(secret "$SECRET_ENROLMENT_TOKEN")
export MERIDIAN_ENROLMENT_TOKEN
meridian pki enrol "$node" --control-plane "$CONTROL_PLANE_URL" --ca /etc/meridian/ca.pem --out /etc/meridian/pki --name "$private"
unset MERIDIAN_ENROLMENT_TOKEN
chown -R meridian:meridian /etc/meridian/pki

# The name that clients are told. A minute is how long an edge that is replaced may be asked for in vain.
record() { printf '{"Action":"UPSERT","ResourceRecordSet":{"Name":"%s.%s","Type":"%s","TTL":60,"ResourceRecords":[{"Value":"%s"}]}}' "$node" "$DOMAIN" "$1" "$2"; }
changes=$(record A "$v4")
[ -z "$v6" ] || changes="$changes,$(record AAAA "$v6")"
aws route53 change-resource-record-sets --hosted-zone-id "$ZONE_ID" --change-batch "{\"Changes\":[$changes]}" >/dev/null

# Says in the log what would keep it from working; starts all the same, since a record may take its minute.
runuser -u meridian -- meridian doctor edge --config /etc/meridian/edge.toml || true
systemctl daemon-reload
systemctl enable --now meridian-edge.service meridian-drain.timer
