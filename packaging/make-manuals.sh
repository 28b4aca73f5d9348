#!/bin/sh
# Writes the manual pages and the default configuration. The page of the client and the reference of all options come from the programs.
set -e
gantry=$1 out=$2 version=$3
here=$(dirname "$(readlink -f "$0")")
mkdir -p "$out"
"$gantry" __manual > "$out/gantry.1"
sed "s/@VERSION@/$version/" "$here/gantryd.8" > "$out/gantryd.8"
# Without the machine's own configuration, so that the result is the same wherever it is made.
: > "$out/empty.toml"
"$gantry" config docs --config "$out/empty.toml" | sed "s|$(dirname "$(dirname "$gantry")")|/usr|g" > "$out/gantry.toml"
rm -f "$out/empty.toml"
[ -s "$out/gantry.toml" ]
{
  cat <<ROFF
.TH GANTRY.TOML 5 "" "gantry $version" "File Formats"
.SH NAME
gantry.toml \- configuration of the gantry container engine
.SH SYNOPSIS
.I /etc/gantry/gantry.toml
.br
.I /etc/gantry/conf.d/*.toml
.SH DESCRIPTION
TOML. The files of conf.d are read after gantry.toml in the order of their names, then the flags of
\fBgantryd\fR(8); a later source replaces single keys of an earlier one. An unknown key, a wrong type or a bad
value is refused with its file, line and column, and nothing starts half\-configured.
\fBgantry config check\fR judges a file, \fBgantry config show \-\-origin\fR prints what is in effect and where it
was set.
.SH OPTIONS
Every option at its default, those of the bundled drivers included:
.PP
.nf
ROFF
  sed -e 's/\\/\\e/g' -e "s/^[.']/\\\\\&&/" -e 's/-/\\-/g' "$out/gantry.toml"
  cat <<'ROFF'
.fi
.SH SEE ALSO
\fBgantry\fR(1), \fBgantryd\fR(8)
ROFF
} > "$out/gantry.toml.5"
for page in gantry.1 gantryd.8 gantry.toml.5; do gzip -9nf "$out/$page"; done
