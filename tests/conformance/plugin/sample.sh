#!/bin/sh
# The sample builds from an installed SDK tree, by find_package and by pkg-config, and exports one symbol.
# usage: sample.sh <source of this folder> <build tree>
set -e
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$2/sdk" --prefix "$work/sdk" >/dev/null
cmake -S "$1/sample" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/sdk" -DCMAKE_BUILD_TYPE=Debug >/dev/null
cmake --build "$work/build"
pc=$(find "$work/sdk" -name gantry-sdk.pc)
flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable=prefix="$work/sdk" --cflags --libs gantry-sdk)
# shellcheck disable=SC2086
c++ -std=c++20 -shared -fPIC -fvisibility=hidden -o "$work/build/by-pkg-config.so" "$1/sample/entry.cpp" $flags
sh "$1/exports.sh" "$work/build"
