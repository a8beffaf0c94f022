#!/usr/bin/env bash
# Makes what clusters/gcp.yaml refers to, and writes project and SSH key into that file. Run it again at any time.
#   bash clusters/gcp-prepare.sh PROJECT BUCKET [SOURCE_RANGE]
# SOURCE_RANGE: who may reach SSH; default: the address you come from, as 203.0.113.7/32. Needs gcloud, logged in.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,5p' "$0"; exit 2; }
project=$1 bucket=$2
here=$(cd "$(dirname "$0")" && pwd)
file=$here/gcp.yaml
region=$(awk '$1 == "region:" {print $2; exit}' "$file")
range=${3:-$(curl -fsS https://checkip.amazonaws.com)/32}
key=~/.ssh/tkd-search-gcp
gc() { gcloud --quiet --project "$project" "$@"; }
have() { gc "$@" > /dev/null 2>&1; }

case $range in 0.0.0.0/*|::/0) echo "gcp-prepare.sh: $range opens SSH to the whole world" >&2; exit 2 ;; esac
[ -f "$key" ] || ssh-keygen -q -t ed25519 -N '' -C tkd-search -f "$key"

have compute networks describe tkd-search || gc compute networks create tkd-search --subnet-mode=custom
have compute networks subnets describe tkd-search --region "$region" ||
  gc compute networks subnets create tkd-search --network tkd-search --region "$region" --range 10.78.0.0/20 \
    --enable-private-ip-google-access
have compute firewall-rules describe tkd-search-inside ||
  gc compute firewall-rules create tkd-search-inside --network tkd-search --allow tcp,udp,icmp \
    --source-ranges 10.78.0.0/20
if have compute firewall-rules describe tkd-search-ssh; then
  gc compute firewall-rules update tkd-search-ssh --source-ranges "$range"
else
  gc compute firewall-rules create tkd-search-ssh --network tkd-search --allow tcp:22 --source-ranges "$range"
fi

for who in head worker; do
  account=tkd-search-$who@$project.iam.gserviceaccount.com
  have iam service-accounts describe "$account" || gc iam service-accounts create "tkd-search-$who"
done
have storage buckets describe "gs://$bucket" ||
  gc storage buckets create "gs://$bucket" --location "$region" --uniform-bucket-level-access --public-access-prevention
for who in head worker; do
  gc storage buckets add-iam-policy-binding "gs://$bucket" --role roles/storage.objectAdmin \
    --member "serviceAccount:tkd-search-$who@$project.iam.gserviceaccount.com" > /dev/null
done
# The head launches and ends workers, and may hand them the worker account, no other.
gc projects add-iam-policy-binding "$project" --role roles/compute.instanceAdmin.v1 --condition=None \
  --member "serviceAccount:tkd-search-head@$project.iam.gserviceaccount.com" > /dev/null
gc iam service-accounts add-iam-policy-binding "tkd-search-worker@$project.iam.gserviceaccount.com" \
  --role roles/iam.serviceAccountUser \
  --member "serviceAccount:tkd-search-head@$project.iam.gserviceaccount.com" > /dev/null

sed -i.bak -e "s|CHANGE-ME-project|$project|g" -e "s|CHANGE-ME-bucket|$bucket|g" \
  -e "s|ubuntu:ssh-ed25519 CHANGE-ME|ubuntu:$(cut -d' ' -f1,2 "$key.pub")|" "$file"
rm -f "$file.bak"
echo "ready: SSH from $range alone. Next: ray up clusters/gcp.yaml"
