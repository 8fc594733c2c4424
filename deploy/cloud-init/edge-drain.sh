#!/bin/sh
# Asks AWS whether this machine is to go. If so: stops the edge, which sends its people elsewhere and lets TURN allocations end, and then tells
# the autoscaling group not to wait longer. Run every ten seconds by meridian-drain.timer.
set -eu
. /etc/meridian/machine.env
metadata=http://169.254.169.254/latest
token=$(curl --fail --silent --request PUT --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token")
ask() { curl --fail --silent --header "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/$1"; }
[ "$(ask autoscaling/target-lifecycle-state)" = Terminated ] || exit 0
systemctl disable --now meridian-edge.service
aws autoscaling complete-lifecycle-action --region "$AWS_REGION" --auto-scaling-group-name "$GROUP" --lifecycle-hook-name drain \
  --lifecycle-action-result CONTINUE --instance-id "$(ask instance-id)"
