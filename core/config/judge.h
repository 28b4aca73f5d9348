// Judges a tree against option schemas and turns it into ABI values. The engine's own sections and the
// drivers' tables take the same way, so both give the same messages.
#pragma once

#include "core/config/tree.h"

#include <deque>
#include <memory>

namespace gantry {

/// Owns everything a gantry_value tree points to; addresses never move.
struct ValueArena {
    std::deque<std::string> strings;
    std::deque<std::vector<gantry_value>> values;
    std::deque<std::vector<const char *>> keys;
    gantry_value root{};

    const char *keep(std::string text) { return strings.emplace_back(std::move(text)).c_str(); }
};

/// A TABLE value from `table` (may be null) with defaults filled in. `path` is for messages.
/// `keep_unknown_tables`: sub-tables without schema are left alone (the drivers' own).
gantry_value judge_table(const gantry_option *options, uint32_t count, const Node *table,
                         const std::string &path, ValueArena &arena, bool keep_unknown_tables = false,
                         const char *shorthand = nullptr);

/// "90s", "1m30s", "250ms" / "64MiB", "10MB", "4096"; false when malformed or too large.
bool parse_duration(const std::string &text, int64_t &nanoseconds);
bool parse_size(const std::string &text, int64_t &bytes);
std::string format_duration(int64_t nanoseconds);
std::string format_size(int64_t bytes);
/// A bound of an option in the option's own unit.
std::string show_bound_text(const gantry_option &option, int64_t value);

/// TOML text of a value; secrets as "***".
std::string render_value(const gantry_value &value, const gantry_option &option);
std::string quote(const std::string &text);
/// A TOML key, quoted where it must be.
std::string quote_key(const std::string &key);

/// "; did you mean 'x'?" or "".
std::string did_you_mean(const std::string &word, const std::vector<std::string> &candidates);

} // namespace gantry
