#!/bin/sh
# Sets up the training, once: the coordinator's file, its app bundle, each hospital's node key and start kit.
# Settings of the run are given as they stand in coordinator.toml: ./training.sh 'rounds = 5' 'local-steps = 20'
set -eu
cd "$(dirname "$0")"

in_service() {
    docker compose run --rm "$@"
}

in_service coordinator medprov-coordinator init --config /consortium/medprov.toml --dir /coordinator
for setting in "$@"; do
    # a later line of a table would be a second one of the same key
    in_service coordinator sed -i -e "/^${setting%%=*}=/d" -e "\$ a $setting" /coordinator/coordinator.toml
done
in_service coordinator medprov-coordinator bundle --approve --config /coordinator/coordinator.toml
docker compose up --detach --wait coordinator
for letter in a b c; do
    hospital=hospital-$letter
    in_service "site-$letter" medprov-node request /site --config /consortium/medprov.toml --hospital "$hospital"
    in_service "site-$letter" cp /site/request.json "/exchange/$hospital.json"
    in_service coordinator medprov-coordinator enroll "/exchange/$hospital.json" \
        --config /coordinator/coordinator.toml --out "/exchange/$hospital-kit.json"
    in_service "site-$letter" medprov-node join --kit "/exchange/$hospital-kit.json" --home /site --images /images \
        --config /consortium/medprov.toml --no-start
done
