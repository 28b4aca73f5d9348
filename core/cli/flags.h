// The grammar of command flags, as Docker's users type it (GNU style as of Go's pflag).
//
// Boost.Program_options reads the global options; for the commands it does not fit: it has no `-p8080:80`
// glued after other short flags, takes unambiguous prefixes as flags, and cannot stop at the first
// positional, without which `run IMAGE sh -c ...` would lose the container's own flags.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gantry::cli {

enum class FlagType { kBool, kString, kInt, kList, kBytes, kDuration, kDecimal };

struct Flag {
    const char *name;
    char shorthand; // 0: none
    FlagType type;
    const char *doc;
    const char *value_name = nullptr; // shown in the help; default from the type
    bool hidden = false;
};

/// A command line that cannot be read: exit code 125.
struct FlagError {
    std::string message;
};

class ParsedFlags {
  public:
    bool has(std::string_view name) const { return values_.find(name) != values_.end(); }
    bool is_set(std::string_view name) const; // bool flags
    /// The last value given, or `fallback`.
    std::string get(std::string_view name, const std::string &fallback = {}) const;
    int64_t integer(std::string_view name, int64_t fallback = 0) const;
    const std::vector<std::string> &list(std::string_view name) const;
    void add(const std::string &name, std::string value) { values_[name].push_back(std::move(value)); }

    std::vector<std::string> positional;

  private:
    std::map<std::string, std::vector<std::string>, std::less<>> values_;
};

/// Parses `args`. With `stop_at_positional` everything from the first positional on is taken as it is.
/// Values are checked against their type here. Throws FlagError.
ParsedFlags parse_flags(std::span<const Flag> flags, std::span<const std::string> args,
                        bool stop_at_positional);
/// The "Options:" block of a help text.
std::string format_flags(std::span<const Flag> flags);

/// "64m", "1.5g", "512" in bytes, units of 1024. Throws FlagError.
int64_t parse_bytes(std::string_view text);
/// Go durations: "1h2m3.5s", "300ms". Result in ns. Throws FlagError.
int64_t parse_duration(std::string_view text);
int64_t parse_integer(std::string_view text);

} // namespace gantry::cli
