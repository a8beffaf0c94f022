#!/usr/bin/env bash
# Creates the Google Cloud objects that clusters/gcp.yaml refers to, and writes project, bucket and SSH key into
# that file. It can be run again at any time.
#   bash clusters/gcp-prepare.sh PROJECT BUCKET [SOURCE_RANGE]
# SOURCE_RANGE: addresses that may connect by SSH, such as 203.0.113.7/32; default: your public address.
# Needs gcloud, logged in.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6p' "$0"; exit 2; }
project=$1 bucket=$2
here=$(cd "$(dirname "$0")" && pwd)
file=$here/gcp.yaml
region=$(awk '$1 == "region:" {print $2; exit}' "$file")
range=${3:-$(curl -fsS https://checkip.amazonaws.com)/32}
key=~/.ssh/tkd-search-gcp
in_project() { gcloud --quiet --project "$project" "$@"; }
exists() { in_project "$@" > /dev/null 2>&1; }

case $range in 0.0.0.0/*|::/0) echo "gcp-prepare.sh: $range allows SSH from every address; give your own, such as 203.0.113.7/32" >&2; exit 2 ;; esac
[ -f "$key" ] || ssh-keygen -q -t ed25519 -N '' -C tkd-search -f "$key"

exists compute networks describe tkd-search || in_project compute networks create tkd-search --subnet-mode=custom
exists compute networks subnets describe tkd-search --region "$region" ||
  in_project compute networks subnets create tkd-search --network tkd-search --region "$region" --range 10.78.0.0/20 \
    --enable-private-ip-google-access
exists compute firewall-rules describe tkd-search-inside ||
  in_project compute firewall-rules create tkd-search-inside --network tkd-search --allow tcp,udp,icmp \
    --source-ranges 10.78.0.0/20
if exists compute firewall-rules describe tkd-search-ssh; then
  in_project compute firewall-rules update tkd-search-ssh --source-ranges "$range"
else
  in_project compute firewall-rules create tkd-search-ssh --network tkd-search --allow tcp:22 --source-ranges "$range"
fi

for role in head worker; do
  account=tkd-search-$role@$project.iam.gserviceaccount.com
  exists iam service-accounts describe "$account" || in_project iam service-accounts create "tkd-search-$role"
done
exists storage buckets describe "gs://$bucket" ||
  in_project storage buckets create "gs://$bucket" --location "$region" --uniform-bucket-level-access --public-access-prevention
for role in head worker; do
  in_project storage buckets add-iam-policy-binding "gs://$bucket" --role roles/storage.objectAdmin \
    --member "serviceAccount:tkd-search-$role@$project.iam.gserviceaccount.com" > /dev/null
done
# The head may launch and delete instances, and assign them the worker's service account only.
in_project projects add-iam-policy-binding "$project" --role roles/compute.instanceAdmin.v1 --condition=None \
  --member "serviceAccount:tkd-search-head@$project.iam.gserviceaccount.com" > /dev/null
in_project iam service-accounts add-iam-policy-binding "tkd-search-worker@$project.iam.gserviceaccount.com" \
  --role roles/iam.serviceAccountUser \
  --member "serviceAccount:tkd-search-head@$project.iam.gserviceaccount.com" > /dev/null

sed -i.bak -e "s|CHANGE-ME-project|$project|g" -e "s|CHANGE-ME-bucket|$bucket|g" \
  -e "s|ubuntu:ssh-ed25519 CHANGE-ME|ubuntu:$(cut -d' ' -f1,2 "$key.pub")|" "$file"
rm -f "$file.bak"
echo "ready: SSH from $range only. Next: ray up clusters/gcp.yaml"
