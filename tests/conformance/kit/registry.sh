#!/bin/bash
# The kit on a registry driver against a real registry on loopback. BUILD CHECK ARGUMENTS...: the program that
# judges, and what it judges.
source "$(dirname "$(readlink -f "$0")")/../../e2e/lib.sh" "$1"
trap cleanup EXIT
shift
start_registry
push_busybox kit/busybox:latest
"$@" --reference "$REGISTRY/kit/busybox:latest"
