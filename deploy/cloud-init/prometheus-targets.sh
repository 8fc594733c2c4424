#!/bin/sh
# Writes what Prometheus scrapes: the edges and etcd members that run in $REGIONS, by their tags, and the control plane.
set -eu
. /etc/meridian/targets.env
directory=/etc/meridian/observability/targets
install -d "$directory"

machines() {
  for region in $REGIONS; do
    aws ec2 describe-instances --region "$region" --output json \
      --filters "Name=tag:meridian-role,Values=$1" "Name=instance-state-name,Values=running"
  done | jq --slurp '[.[].Reservations[].Instances[]]'
}

# Replaced at once: Prometheus never reads half a file.
put() {
  cat >"$directory/$1.new"
  mv "$directory/$1.new" "$directory/$1.json"
}

machines edge | jq --arg domain "$DOMAIN" '[.[] | (.Tags | map({(.Key): .Value}) | add) as $tags | $tags["meridian-region"] as $region
  | {targets: ["\($region)-\(.InstanceId | ltrimstr("i-")).\($domain):443"], labels: {region: $region}}]' | put edges
machines etcd | jq '[.[] | {targets: ["\(.PrivateIpAddress):2379"]}]' | put etcd
jq --null-input --arg page "$PAGE" '[{targets: ["\($page):443"]}]' | put control-planes
