#!/bin/sh
# Every built plugin exports the one data symbol and nothing else.
dir=$1
bad=0
seen=0
for file in "$dir"/*.so; do
    [ -e "$file" ] || continue
    seen=$((seen + 1))
    names=$(nm -D --defined-only "$file" | awk '{print $2 " " $3}')
    case "$names" in
    "D gantry_plugin_entry" | "R gantry_plugin_entry" | "B gantry_plugin_entry") ;;
    *)
        echo "$file exports: $names"
        bad=1
        ;;
    esac
done
if [ "$seen" = 0 ]; then
    echo "no plugin in $dir"
    exit 1
fi
echo "$seen plugins looked at"
exit $bad
